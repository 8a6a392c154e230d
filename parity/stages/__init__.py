"""The only files that name stages and taps."""

from .patchifiers import PATCHIFIERS
from .transformer import TRANSFORMER
from .video import UPSAMPLER, VIDEO_DECODER, VIDEO_ENCODER

STAGES = (PATCHIFIERS, TRANSFORMER, VIDEO_ENCODER, VIDEO_DECODER, UPSAMPLER)
