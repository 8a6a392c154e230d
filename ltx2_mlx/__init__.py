"""LTX-2 in MLX: video with sound from a prompt. ``load`` reads a component of an official checkpoint."""

import os

# On CUDA MLX 0.31.1 keeps 128 plans of convolutions and stops with an error when a second video's tiles need more.
os.environ.setdefault("MLX_CUDA_CONV_CACHE_SIZE", "1024")

from .diffusion.perturbations import BatchedPerturbationConfig, Perturbation, PerturbationConfig, PerturbationType
from .errors import CheckpointError, ConfigError, InputError, LTX2Error, WeightsError
from .loading.load import Checkpoint, LoadReport, load, read_checkpoint
from .loading.lora import LoraPathStrength, LoraReport, lora_metadata
from .pipelines.prompts import encode_prompts, load_contexts, save_contexts
from .text.embeddings import EmbeddingsProcessorOutput
from .transformer import LTXModel, X0Model
from .types import Modality

__version__ = "0.1.0"

__all__ = [
    "BatchedPerturbationConfig",
    "Checkpoint",
    "CheckpointError",
    "ConfigError",
    "EmbeddingsProcessorOutput",
    "InputError",
    "LTX2Error",
    "LTXModel",
    "LoadReport",
    "LoraPathStrength",
    "LoraReport",
    "Modality",
    "Perturbation",
    "PerturbationConfig",
    "PerturbationType",
    "WeightsError",
    "X0Model",
    "encode_prompts",
    "load",
    "load_contexts",
    "lora_metadata",
    "read_checkpoint",
    "save_contexts",
]
