"""Faults that real ports shipped, one file a component."""

from .audio import AUDIO
from .lora import LORA
from .planting import Mutation, planted
from .sampling import SAMPLING
from .text import TEXT
from .transformer import TRANSFORMER
from .video import VIDEO

MUTATIONS = (*TEXT, *TRANSFORMER, *VIDEO, *AUDIO, *SAMPLING, *LORA)

__all__ = ["MUTATIONS", "Mutation", "planted"]
