"""Modules of ltx-pipelines, without its progress bars among our own lines."""

from functools import partial

from . import components  # noqa: F401  first: it makes torchaudio importable

from ltx_pipelines.utils import helpers, media_io, samplers  # isort: skip

for _module in (media_io, samplers):
    _module.tqdm = partial(_module.tqdm, disable=True)

__all__ = ["helpers", "media_io", "samplers"]
