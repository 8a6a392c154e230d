"""The only files that name stages and taps."""

from .patchifiers import PATCHIFIERS
from .transformer import TRANSFORMER

STAGES = (PATCHIFIERS, TRANSFORMER)
