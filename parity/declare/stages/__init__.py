"""The only files that name stages and taps."""

from ..model import Pipeline, Stage
from .audio_processor import AUDIO_PROCESSOR
from .audio_vae import AUDIO_DECODER, AUDIO_ENCODER
from .command_line import COMMAND_LINE
from .denoising import DENOISING
from .diffusion_decoder import VIDEO_DECODER_25
from .embeddings_processor import EMBEDDINGS_PROCESSOR
from .files import FILES
from .gemma import GEMMA, GEMMA4
from .lora import LORA, TRANSFORMER_FP8, TRANSFORMER_LORA
from .patchifiers import PATCHIFIERS
from .pipelines import PIPELINES
from .sampling import SAMPLING
from .tokenizer import TOKENIZER
from .transformer import TRANSFORMER
from .transformer_25 import TRANSFORMER_25
from .upstream import UPSTREAM
from .video import UPSAMPLER, VIDEO_DECODER, VIDEO_ENCODER
from .vocoder import DECODE_AUDIO, VOCODER

STAGES: tuple[Stage, ...] = (
    TOKENIZER,
    GEMMA,
    GEMMA4,
    EMBEDDINGS_PROCESSOR,
    PATCHIFIERS,
    TRANSFORMER,
    VIDEO_ENCODER,
    VIDEO_DECODER,
    UPSAMPLER,
)
STAGES += (AUDIO_PROCESSOR, AUDIO_ENCODER, AUDIO_DECODER, VOCODER, DECODE_AUDIO, SAMPLING, DENOISING, UPSTREAM)
STAGES += (LORA, TRANSFORMER_LORA, TRANSFORMER_FP8, TRANSFORMER_25, VIDEO_DECODER_25, COMMAND_LINE, FILES)

# The way of the data, from a prompt to a video with audio: the columns of the report's map.
PHASES = {
    "Command line": ("command_line",),
    "Prompt": ("tokenizer", "gemma", "gemma4", "embeddings_processor"),
    "Image and audio in": ("video_encoder", "audio_processor", "audio_encoder"),
    "Denoising": (
        "sampling",
        "denoising",
        "upstream",
        "patchifiers",
        "lora",
        "transformer",
        "transformer_lora",
        "transformer_fp8",
        "transformer_25",
        "upsampler",
    ),
    "Video out": ("video_decoder", "video_decoder_25"),
    "Audio out": ("audio_decoder", "vocoder", "decode_audio"),
    "Files": ("files",),
}


def stages() -> dict[str, Stage]:
    """Every stage by name, in data order."""
    return {stage.name: stage for stage in STAGES}


def pipelines() -> dict[str, Pipeline]:
    """Every pipeline by name."""
    return {pipeline.name: pipeline for pipeline in PIPELINES}
