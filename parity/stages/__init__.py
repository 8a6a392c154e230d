"""The only files that name stages and taps."""

from ..registry import Pipeline, Stage
from .audio_processor import AUDIO_PROCESSOR
from .audio_vae import AUDIO_DECODER, AUDIO_ENCODER
from .embeddings_processor import EMBEDDINGS_PROCESSOR
from .gemma import GEMMA
from .lora import LORA, TRANSFORMER_LORA
from .patchifiers import PATCHIFIERS
from .pipelines import PIPELINES
from .sampling import SAMPLING
from .tokenizer import TOKENIZER
from .transformer import TRANSFORMER
from .video import UPSAMPLER, VIDEO_DECODER, VIDEO_ENCODER
from .vocoder import DECODE_AUDIO, VOCODER

STAGES = (TOKENIZER, GEMMA, EMBEDDINGS_PROCESSOR, PATCHIFIERS, TRANSFORMER, VIDEO_ENCODER, VIDEO_DECODER, UPSAMPLER)
STAGES += (AUDIO_PROCESSOR, AUDIO_ENCODER, AUDIO_DECODER, VOCODER, DECODE_AUDIO, SAMPLING)
STAGES += (LORA, TRANSFORMER_LORA)


def stages() -> dict[str, Stage]:
    """Every stage by name, in data order."""
    return {stage.name: stage for stage in STAGES}


def pipelines() -> dict[str, Pipeline]:
    """Every pipeline by name."""
    return {pipeline.name: pipeline for pipeline in PIPELINES}
