"""The torch side: the only place of the package that imports torch, ltx-core and ltx-pipelines.

Here is what most stages need. ``loops``, ``files``, ``command_line`` and ``pipelines`` import ltx-pipelines as well,
and with it transformers, which takes five seconds.
"""

from functools import cache

from ...declare.model import Stage
from .components import BUILDERS, Tokenizer, Torch, decoded_in_slabs, encoded_in_slabs, loaded_weights
from .tokens import Gemma4Tokenizer


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
    "Gemma4Tokenizer",
    "Tokenizer",
    "Torch",
    "decoded_in_slabs",
    "encoded_in_slabs",
    "loaded_weights",
    "reference_of",
]
