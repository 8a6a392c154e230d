"""The only files that name stages and taps."""

from .embeddings_processor import EMBEDDINGS_PROCESSOR
from .patchifiers import PATCHIFIERS
from .transformer import TRANSFORMER

STAGES = (EMBEDDINGS_PROCESSOR, PATCHIFIERS, TRANSFORMER)
