"""The files that a pipeline is made of. Every method loads its component again, and nothing here keeps it: a component
is released when its last user drops it.

Mirrors ``ltx_pipelines.utils.model_ledger``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar, cast

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ..audio_vae import AudioDecoder, AudioEncoder
from ..config import LatentUpsamplerConfig
from ..diffusion.behaviour import Behaviour, behaviour_of
from ..diffusion_decoder import DiffusionVideoDecoder
from ..distributed.models import SharedX0Model, SplitX0Model
from ..distributed.ranks import Ranks
from ..distributed.table import WAYS
from ..errors import InputError
from ..loading.checkpoint import CheckpointPath, read_checkpoint, release_of
from ..loading.load import load
from ..loading.lora import LoraPathStrength
from ..loading.paging import amend_blocks
from ..memory import Peaks
from ..nn.noise import Generator
from ..text.embeddings import EmbeddingsProcessorOutput
from ..transformer import LTXModel, X0Model
from ..upsampler import LatentUpsampler
from ..video_vae import VideoDecoder, VideoEncoder
from ..vocoder import Vocoder, VocoderWithBWE
from .constants import PipelineParams, params_of

Progress = Callable[[str, int, int | None], None]
Component = TypeVar("Component", bound=nn.Module)


def quiet(name: str, done: int, total: int | None) -> None:
    """Ignores progress."""


@dataclass(frozen=True)
class Denoised:
    """The video that a step of denoising aims at. stage: its name in the progress. step: of ``steps``, from 1 on.
    latent: ``(1, 128, F, H, W)`` without noise; not computed before it is looked at."""

    stage: str
    step: int
    steps: int
    latent: mx.array


class Kept:
    """Models that are loaded once for several videos: as many as ``budget`` bytes hold, those that were used last."""

    def __init__(self, budget: int):
        self.budget = budget
        self._models: dict[tuple[object, ...], tuple[nn.Module, int]] = {}

    def model(self, key: tuple[object, ...], load: Callable[[], Component]) -> Component:
        """The model of this key, whose first part is its component; a new one from ``load``."""
        if key in self._models:
            model, size = self._models.pop(key)
        else:
            self._make_room(next((size for other, (_, size) in self._models.items() if other[0] == key[0]), 0))
            model = load()
            size = _size(model)
        self._models[key] = model, size
        self._make_room(0)
        return cast(Component, model)

    def _make_room(self, needed: int) -> None:
        while self._models and needed + sum(size for _, size in self._models.values()) > self.budget:
            del self._models[next(iter(self._models))]
            mx.clear_cache()


@dataclass(frozen=True)
class Settings:
    """How a pipeline runs, whatever it makes.

    dtype: of weights and latents. quantization: of the transformer: "fp8-cast" keeps its weights in 8 bits, "q8" and
    "q4" pack them in 8 or 4 bits as MLX does.
    noise: makes the stream of random numbers of a seed. contexts: prompt → context; for these prompts Gemma is not
    needed. context_path: the file to which new contexts are saved, together with the given ones.
    progress: called with (name of the work, done, total) as work goes on; total is None where it is not known.
    preview: called after each step of denoising; it costs what it computes, and changes no number of the run.
    kept: what several calls with the same files share; without it each call loads its models, and releases them.
    low_memory: keep nothing that could be loaded again, read the blocks of the transformer and of the text models when
    they are called and drop them after, and decode videos in smaller slabs, or tiles. The result is the same.
    decode_budget: bytes that decoding a video may take beside the decoder's weights; None: half of the memory, or an
    eighth with low_memory.
    audio: False neither decodes nor returns audio; the frames stay the same.
    placeholder: run neither the transformer nor Gemma; latents are noise. For testing all that comes afterwards.
    behaviour: what upstream has changed since 1.0.0, as in "1.0.0" or as in "upstream"; None: as in upstream for models
    from 2.5 on. See ``ltx2_mlx.diffusion.behaviour``.
    early_layers_only, cross_attn_scale: diagnostics. The first takes Gemma's input embeddings for all of its layers,
    the second scales what the blocks take from the prompt. ranks: processes that make the same calls and decode the
    video together. With parallel "tensor" the transformer and the text models are split over them; with "guidance" each
    has all of them, and they share the passes of a guided step. peaks: the run writes the memory of its phases there.
    """

    dtype: mx.Dtype = mx.bfloat16
    quantization: str | None = None
    noise: Callable[[int], Generator] = Generator
    contexts: Mapping[str, EmbeddingsProcessorOutput] = field(default_factory=dict)
    context_path: Path | None = None
    progress: Progress = quiet
    preview: Callable[[Denoised], None] | None = None
    kept: Kept | None = None
    low_memory: bool = False
    decode_budget: int | None = None
    audio: bool = True
    placeholder: bool = False
    behaviour: str | None = None
    early_layers_only: bool = False
    cross_attn_scale: float = 1.0
    ranks: Ranks | None = None
    parallel: str = "tensor"
    peaks: Peaks = field(default_factory=Peaks, compare=False)

    def __post_init__(self) -> None:
        if self.dtype not in (mx.bfloat16, mx.float16, mx.float32):
            raise InputError(f"the dtype is {self.dtype}, expected bfloat16, float16 or float32")
        if not abs(self.cross_attn_scale) <= 100:  # NaN as well
            raise InputError(f"cross_attn_scale is {self.cross_attn_scale}, expected -100 to 100")
        behaviour_of(self.behaviour, ())  # raises for a name that there is not
        if self.parallel not in WAYS:
            raise InputError(f"parallel is {self.parallel!r}, expected {' or '.join(WAYS)}")

    @property
    def split(self) -> Ranks | None:
        """The ranks that networks are split over; None where each process has whole ones."""
        return self.ranks if self.parallel == "tensor" else None

    @contextmanager
    def task(self, name: str) -> Iterator[None]:
        """Reports the start and the end of the work within, which has no steps to count."""
        self.progress(name, 0, 1)
        yield
        self.progress(name, 1, 1)


@dataclass(frozen=True)
class ModelLedger:
    """Loads the components of one checkpoint, with ``settings``. loras: fused into the transformer."""

    checkpoint_path: CheckpointPath
    gemma_root_path: str | Path | None = None
    spatial_upsampler_path: str | Path | None = None
    loras: tuple[LoraPathStrength, ...] = ()
    settings: Settings = field(default_factory=Settings)

    def with_loras(self, loras: tuple[LoraPathStrength, ...]) -> ModelLedger:
        return replace(self, loras=tuple(loras))

    def with_additional_loras(self, loras: tuple[LoraPathStrength, ...]) -> ModelLedger:
        return self.with_loras((*self.loras, *loras))

    @cached_property
    def release(self) -> tuple[int, ...]:
        """The checkpoint's release: (2, 3)."""
        return release_of(read_checkpoint(self.checkpoint_path).version)

    @property
    def behaviour(self) -> Behaviour:
        return behaviour_of(self.settings.behaviour, self.release)

    @property
    def params(self) -> PipelineParams:
        """The defaults of the checkpoint's version."""
        return params_of(read_checkpoint(self.checkpoint_path).version)

    @property
    def marks_keyframes(self) -> bool:
        """True where the transformer is told which tokens hold a single picture, as from 2.5 on."""
        section = read_checkpoint(self.checkpoint_path).config.get("transformer", {})
        return bool(section.get("use_keyframes_abs_pos_embedding"))

    def transformer(self) -> X0Model:
        """The transformer with its LoRAs fused and every weight read, so that all of its steps take the same time; with
        ``low_memory`` all that is in no block."""
        settings = self.settings
        if settings.quantization and settings.cross_attn_scale != 1.0:
            raise InputError("cross_attn_scale changes weights, which quantization has rounded; use one of them")
        return self._kept("transformer", self._transformer)

    def _transformer(self) -> X0Model:
        settings = self.settings
        with settings.task("loading the transformer"):
            loaded = load(
                "transformer",
                self.checkpoint_path,
                settings.dtype,
                loras=self.loras,
                quantization=settings.quantization,
                paged=settings.low_memory,
                ranks=settings.split,
            )
            model = cast(LTXModel, loaded)
            if settings.cross_attn_scale != 1.0:
                amend_blocks(model, partial(_scale_cross_attention, scale=settings.cross_attn_scale))
            model.audio_video_timing = self.behaviour.audio_video_timing
            mx.eval(model)
        if settings.ranks is None:
            return X0Model(model)
        return (SharedX0Model if settings.split is None else SplitX0Model)(model, settings.ranks)

    def video_encoder(self) -> VideoEncoder:
        return self._load("video_encoder", VideoEncoder)

    def video_decoder(self) -> VideoDecoder | DiffusionVideoDecoder:
        return cast("VideoDecoder | DiffusionVideoDecoder", self._load("video_decoder", nn.Module))

    def audio_encoder(self) -> AudioEncoder:
        return self._load("audio_encoder", AudioEncoder)

    def audio_decoder(self) -> AudioDecoder:
        return self._load("audio_decoder", AudioDecoder)

    def vocoder(self) -> Vocoder | VocoderWithBWE:
        return cast("Vocoder | VocoderWithBWE", self._load("vocoder", nn.Module))

    def spatial_upsampler(self) -> LatentUpsampler:
        if self.spatial_upsampler_path is None:
            raise InputError("this pipeline needs a latent upsampler; give spatial_upsampler_path")
        return self._kept("upsampler", self._upsampler)

    def _upsampler(self) -> LatentUpsampler:
        assert self.spatial_upsampler_path is not None
        upsampler = cast(LatentUpsampler, load("upsampler", self.spatial_upsampler_path, self.settings.dtype))
        check_upsampler(upsampler.config, self.spatial_upsampler_path)
        return upsampler

    def _load(self, component: str, kind: type[Component]) -> Component:
        settings = self.settings
        ranks = settings.ranks if component == "video_decoder" else None
        return self._kept(
            component, lambda: cast(Component, load(component, self.checkpoint_path, settings.dtype, ranks=ranks))
        )

    def _kept(self, component: str, load: Callable[[], Component]) -> Component:
        """The model that is kept for several videos; or a new one, where nothing is kept."""
        if (kept := self.settings.kept) is None:
            return load()
        loras = self.loras if component == "transformer" else ()
        return kept.model((component, self.checkpoint_path, self.spatial_upsampler_path, loras), load)


def _size(model: nn.Module) -> int:
    """Bytes of a model's weights."""
    parameters: dict[str, mx.array] = dict(tree_flatten(model.parameters()))
    return sum(array.nbytes for array in parameters.values())


def check_upsampler(config: LatentUpsamplerConfig, path: str | Path) -> None:
    """Raises InputError for one that a second stage cannot use."""
    if config.temporal_upsample:
        raise InputError(f"{path} upsamples time; the second stage needs a spatial upsampler that scales by 2")
    if (scale := config.spatial_scale) != 2:
        raise InputError(f"{path} scales by {scale:g}; the second stage needs one that scales by 2")


def _scale_cross_attention(block: nn.Module, scale: float) -> None:
    """Everything after an attention's output projection is linear, so its weights carry the scale."""
    for name in ("attn2", "audio_attn2"):
        if name in block:
            out = block[name].to_out[0]
            for part in ("scales", "biases", "bias", "lora_B") if "scales" in out else ("weight", "bias"):
                if part in out:
                    out[part] = out[part] * scale
