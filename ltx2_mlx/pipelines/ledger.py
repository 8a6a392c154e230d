"""Which files a pipeline is made of. Every method builds a part anew; a part is released when its last user drops it.

Mirrors ``ltx_pipelines.utils.model_ledger``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn

from ..errors import InputError
from ..loading.load import load
from ..loading.lora import LoraPathStrength
from ..nn.noise import Generator
from ..text.embeddings import EmbeddingsProcessorOutput
from ..transformer import X0Model

Progress = Callable[[str, int, int | None], None]


def quiet(name: str, done: int, total: int | None) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True)
class Settings:
    """How a pipeline runs, beside what it makes.

    dtype: of weights and latents. quantization: "fp8-cast" keeps the transformer's weights in 8 bits.
    noise: makes the stream of random numbers of a seed. contexts: prompt → context, in place of Gemma.
    context_path: where the contexts that were made are kept, together with the given ones.
    progress: called with (what, done, total) as work goes on; total is None where it is not known.
    low_memory: nothing is kept that could be loaded again, and videos are decoded in smaller tiles.
    audio: False neither decodes nor returns sound; the picture stays the same.
    placeholder: no transformer and no prompt; latents are noise. For trying out everything that comes after.
    early_layers_only, cross_attn_scale: diagnostics. The first takes Gemma's input embeddings for all of its layers,
    the second scales what the blocks take from the prompt.
    """

    dtype: mx.Dtype = mx.bfloat16
    quantization: str | None = None
    noise: Callable[[int], Generator] = Generator
    contexts: Mapping[str, EmbeddingsProcessorOutput] = field(default_factory=dict)
    context_path: Path | None = None
    progress: Progress = quiet
    low_memory: bool = False
    audio: bool = True
    placeholder: bool = False
    early_layers_only: bool = False
    cross_attn_scale: float = 1.0


@dataclass(frozen=True)
class ModelLedger:
    checkpoint_path: str | Path
    gemma_root_path: str | Path | None = None
    spatial_upsampler_path: str | Path | None = None
    loras: tuple[LoraPathStrength, ...] = ()
    settings: Settings = field(default_factory=Settings)

    def with_loras(self, loras: tuple[LoraPathStrength, ...]) -> ModelLedger:
        return replace(self, loras=tuple(loras))

    def with_additional_loras(self, loras: tuple[LoraPathStrength, ...]) -> ModelLedger:
        return self.with_loras((*self.loras, *loras))

    def transformer(self) -> X0Model:
        """With its LoRAs fused and every weight read: its first step takes no longer than the others."""
        settings = self.settings
        if settings.quantization and settings.cross_attn_scale != 1.0:
            raise InputError("cross_attn_scale changes weights, which quantization has rounded; use one of them")
        settings.progress("loading the transformer", 0, 1)
        model = load(
            "transformer",
            self.checkpoint_path,
            settings.dtype,
            loras=self.loras,
            quantization=settings.quantization,
        )
        if settings.cross_attn_scale != 1.0:
            _scale_cross_attention(model, settings.cross_attn_scale)
        mx.eval(model.parameters())
        settings.progress("loading the transformer", 1, 1)
        return X0Model(model)

    def video_encoder(self) -> nn.Module:
        return self._load("video_encoder")

    def video_decoder(self) -> nn.Module:
        return self._load("video_decoder")

    def audio_encoder(self) -> nn.Module:
        return self._load("audio_encoder")

    def audio_decoder(self) -> nn.Module:
        return self._load("audio_decoder")

    def vocoder(self) -> nn.Module:
        return self._load("vocoder")

    def spatial_upsampler(self) -> nn.Module:
        if self.spatial_upsampler_path is None:
            raise InputError("this pipeline needs a latent upsampler; give spatial_upsampler_path")
        return load("upsampler", self.spatial_upsampler_path, self.settings.dtype)

    def _load(self, component: str) -> nn.Module:
        return load(component, self.checkpoint_path, self.settings.dtype)


def _scale_cross_attention(model: nn.Module, scale: float) -> None:
    """Everything after an attention's output projection is linear, so its weights carry the scale."""
    for block in model.transformer_blocks:
        for name in ("attn2", "audio_attn2"):
            if name in block:
                out = block[name].to_out[0]
                out.weight, out.bias = out.weight * scale, out.bias * scale
