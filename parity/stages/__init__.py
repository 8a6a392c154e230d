"""The only files that name stages and taps."""

from .embeddings_processor import EMBEDDINGS_PROCESSOR
from .gemma import GEMMA
from .patchifiers import PATCHIFIERS
from .tokenizer import TOKENIZER
from .transformer import TRANSFORMER

STAGES = (TOKENIZER, GEMMA, EMBEDDINGS_PROCESSOR, PATCHIFIERS, TRANSFORMER)
