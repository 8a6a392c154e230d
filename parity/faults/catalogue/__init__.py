"""Faults that real ports shipped, one file a component, and their classes."""

from ..classes import CAUSES, NOT_APPLICABLE
from ..planting import Mutation, planted
from .audio import AUDIO
from .denoising import DENOISING
from .loading import LOADING
from .lora import LORA
from .pipelines import PIPELINES
from .positions import POSITIONS
from .sampling import SAMPLING
from .text import TEXT
from .transformer import TRANSFORMER
from .video import VIDEO

MUTATIONS = (*LOADING, *TEXT, *POSITIONS, *TRANSFORMER, *VIDEO, *AUDIO, *SAMPLING, *DENOISING, *LORA, *PIPELINES)

__all__ = ["CAUSES", "MUTATIONS", "NOT_APPLICABLE", "Mutation", "planted"]
