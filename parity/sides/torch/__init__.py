"""The torch side: the only place of the package that imports torch, ltx-core and ltx-pipelines."""

from .components import BUILDERS, Tokenizer, Torch, loaded_weights
from .loops import (
    euler_denoising_loop,
    guided,
    noised,
    res2s_audio_video_denoising_loop,
    res2s_step,
    simple,
)

__all__ = [
    "BUILDERS",
    "Tokenizer",
    "Torch",
    "euler_denoising_loop",
    "guided",
    "loaded_weights",
    "noised",
    "res2s_audio_video_denoising_loop",
    "res2s_step",
    "simple",
]
