"""The torch side: the only place of the package that imports torch, ltx-core and ltx-pipelines."""

from functools import cache, partial

from ...declare.model import Stage
from .components import BUILDERS, Tokenizer, Torch, loaded_weights
from .loops import (
    decoded_in_slabs,
    encoded_in_slabs,
    euler_denoising_loop,
    guided,
    noised,
    res2s_audio_video_denoising_loop,
    res2s_step,
    simple,
)

from ltx_pipelines.utils import media_io, samplers  # isort: skip  after components, which makes torchaudio importable

for _module in (media_io, samplers):
    _module.tqdm = partial(_module.tqdm, disable=True)  # no progress bars of the reference among our own lines


def reference_of(stage: Stage) -> Torch:
    """The side that a stage is compared with."""
    return _side(stage.reference)


@cache
def _side(reference: str) -> Torch:
    if reference == "diffusers":
        from .diffusers import Diffusers  # not above: it takes seconds

        return Diffusers("reference")
    if reference == "transformers":
        from .transformers import Transformers

        return Transformers()
    return Torch()


__all__ = [
    "BUILDERS",
    "Tokenizer",
    "Torch",
    "decoded_in_slabs",
    "encoded_in_slabs",
    "euler_denoising_loop",
    "guided",
    "loaded_weights",
    "noised",
    "reference_of",
    "res2s_audio_video_denoising_loop",
    "res2s_step",
    "simple",
]
