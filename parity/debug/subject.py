"""The subject of a view: the files, the sides that are there, and runs of one stage with everything recorded."""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ltx2_mlx.errors import InputError
from ltx2_mlx.loading.checkpoint import Checkpoint, read_checkpoint

from ..declare.inputs import FIXTURES, GEMMA, normal
from ..declare.model import Case, Counterparts, Data, Obj, Stage
from ..declare.stages import stages
from ..declare.stages.patchifiers import CLASSES as PATCHIFIERS
from ..declare.stages.sampling import CLASSES as SAMPLING
from ..declare.stages.transformer import CLASSES as TRANSFORMER
from ..declare.stages.transformer import grid, seconds
from ..run.cells import IN_MEMORY, is_mapped, needed_for
from ..run.streamed import PagedSession
from ..run.streamed_shards import Shelf
from ..run.streaming import Streaming
from ..sides.loading import read
from ..sides.mlx import MLX
from ..tap.execute import execute
from ..tap.session import Session
from ..tap.side import Side, resolve
from ..tap.trace import Trace

_OWN = {
    "LatentState": Counterparts("ltx_core.types:LatentState", "ltx2_mlx.types:LatentState"),
    "EulerDiffusionStep": Counterparts(
        "ltx_core.components.diffusion_steps:EulerDiffusionStep",
        "ltx2_mlx.diffusion.diffusion_steps:EulerDiffusionStep",
    ),
    "euler_denoising_loop": Counterparts(
        "ltx_pipelines.utils.samplers:euler_denoising_loop", "ltx2_mlx.diffusion.samplers:euler_denoising_loop"
    ),
    "simple_denoising_func": Counterparts(
        "ltx_pipelines.utils.helpers:simple_denoising_func", "ltx2_mlx.diffusion.denoisers:simple_denoising_func"
    ),
}
# The classes and functions that views call on both sides, held as a stage holds its own.
BOTH = Stage("debug", None, lambda config: {}, {**SAMPLING, **PATCHIFIERS, **TRANSFORMER, **_OWN}, ())
FRAMES, HEIGHT, WIDTH, AUDIO = 3, 3, 4, 11  # latent sizes of what is denoised when nothing else is asked for


def sides(reference: bool = True) -> dict[str, Side]:
    """Ours, and the reference where torch and ltx-core are installed (and wanted)."""
    found: dict[str, Side] = {"ours": MLX()}
    if reference:
        with contextlib.suppress(ImportError):
            found["reference"] = importlib.import_module("parity.sides.torch").Torch()
    return found


def prepare_fixtures() -> None:
    """Build the tiny checkpoints where torch is there; without it they must lie there already."""
    try:
        importlib.import_module("parity.sides.fixtures").ensure_fixtures()
    except ImportError:
        if not FIXTURES.exists():
            raise InputError(f"{FIXTURES}: no tiny checkpoints are there, and building them needs torch") from None


@functools.cache
def too_large(component: str, path: Path) -> bool:
    """True if a component cannot be held in memory on both sides: its blocks are then read as they run."""
    return needed_for(component, read(path)) > IN_MEMORY or not is_mapped(path)


def loaded(side: Side, component: str, path: Path, dtype: str) -> Any:
    """A component on one side."""
    config = read(path).config
    if not too_large(component, path):
        return side.load(component, path, config, dtype)
    if isinstance(side, MLX):
        return side.load(component, path, config, dtype, paged=True)
    return importlib.import_module("parity.sides.torch.paging").load_paged(component, path, config, dtype).reference


@dataclass
class Subject:
    """dtype: of the weights and of the run. gemma: the Hugging Face folder."""

    checkpoint: Path
    gemma: Path = GEMMA
    dtype: str = "float32"
    sides: dict[str, Side] = field(default_factory=sides)
    _loaded: dict[tuple[str, str, Path], Any] = field(default_factory=dict)
    _folder: TemporaryDirectory[str] | None = None  # of what is recorded of large components
    _runs: int = 0

    @cached_property
    def file(self) -> Checkpoint:
        return read_checkpoint(self.checkpoint)

    @property
    def config(self) -> dict[str, Any]:
        return self.file.config

    @property
    def compared(self) -> bool:
        return "reference" in self.sides

    def require(self, *components: str) -> None:
        for component in components:
            if component not in self.file.components():
                raise InputError(f"{self.checkpoint} holds no {component}; give a checkpoint or --config that does")

    @cached_property
    def _arrays(self) -> Mapping[str, Any]:
        return self.file.arrays()

    def tensor(self, key: str) -> np.ndarray:
        """A tensor of the file as float32, in the file's layout."""
        return self.as_numpy(self._arrays[key])

    @staticmethod
    def as_numpy(array: Any) -> np.ndarray:
        return MLX().to_numpy(array).values.astype(np.float32)

    def load(self, key: str, component: str, path: Path | None = None) -> Any:
        """A component on one side, loaded once."""
        path = path or (self.gemma if component == "gemma" else self.checkpoint)
        if (key, component, path) not in self._loaded:
            self._loaded[key, component, path] = loaded(self.sides[key], component, path, self.dtype)
        return self._loaded[key, component, path]

    def _session(self, key: str, large: bool, noise: Trace | None) -> Session:
        """Of a large component what is recorded goes to disk: it would be gigabytes."""
        if not large:
            return Session(self.sides[key], noise, only=())
        self._folder = self._folder or TemporaryDirectory(prefix="parity-debug-")
        folder = Path(self._folder.name) / str(self._runs)
        self._runs += 1
        return PagedSession(Shelf(folder, ""), Streaming(folder), f"view of {key}", self.sides[key], noise, only=())

    def trace(
        self,
        key: str,
        stage: str,
        case: Case,
        also: dict[str, Path] | None = None,
        noise: Trace | None = None,
    ) -> Trace:
        return self.run(key, stage, case, also, noise)[0]

    def run(
        self,
        key: str,
        stage: str,
        case: Case,
        also: dict[str, Path] | None = None,
        noise: Trace | None = None,
    ) -> tuple[Trace, Any]:
        """A free run with every module and every function tap of the stage recorded, and what it gives.

        also: further components and their files. noise: a run whose random numbers are drawn again.
        """
        spec, side = stages()[stage], self.sides[key]
        modules = {part: self.load(key, part) for part in (spec.component,) if part}
        modules |= {part: self.load(key, part, path) for part, path in (also or {}).items()}
        paths = {part: self.gemma if part == "gemma" else self.checkpoint for part in modules} | (also or {})
        large = any(too_large(part, path) for part, path in paths.items())
        session = self._session(key, large, noise)
        session.counted = False
        result = execute(side, spec, modules, case, self.dtype, self.dtype, session)
        return session.trace, result

    def make(self, key: str, value: Any) -> Any:
        """Neutral inputs (``Obj``, ``Data``) as objects of one side."""
        return self.sides[key].materialise(value, BOTH, self.dtype, self.dtype)

    def at(self, key: str, name: str) -> Any:
        """A class or function that both sides have."""
        owner, attribute = resolve(getattr(BOTH.classes[name], key))
        return getattr(owner, attribute)

    def numpy(self, key: str, value: Any) -> np.ndarray:
        return self.sides[key].to_numpy(value).values


# ---- inputs of the transformer ------------------------------------------------------------------------------------


def audio_too(config: dict[str, Any]) -> bool:
    return bool(config["transformer"].get("use_audio_video_cross_attention", False))


def positions(audio: bool) -> Data:
    values = seconds(AUDIO) if audio else grid(FRAMES, HEIGHT, WIDTH, fps=24.0)
    return Data(values[None], "none" if audio else "lane")


def latent(config: dict[str, Any], audio: bool) -> np.ndarray:
    """``(1, T, C)`` noise."""
    channels = config["transformer"].get("audio_in_channels" if audio else "in_channels", 128)
    return normal(f"debug:latent:{audio}", 1, AUDIO if audio else FRAMES * HEIGHT * WIDTH, channels)


def context(config: dict[str, Any], audio: bool, name: str) -> np.ndarray:
    """``(1, 13, D)`` random numbers in place of a prompt's context; the video's for a stream that is not there."""
    t, stream = config["transformer"], "audio_" if audio and audio_too(config) else ""
    width = t[f"{stream}num_attention_heads"] * t[f"{stream}attention_head_dim"]
    if not t.get("caption_proj_before_connector"):
        width = t["caption_channels"]
    return normal(f"debug:context:{name}:{audio}", 1, 13, width)


Contexts = tuple[np.ndarray, np.ndarray]


def contexts_of(subject: Subject, prompts: list[str] | None) -> dict[str, Contexts]:
    """ "A" and "B" → contexts for video and audio: of two prompts (by ours), or random where none are given."""
    if not prompts:
        return {name: (context(subject.config, False, name), context(subject.config, True, name)) for name in "AB"}
    product = importlib.import_module("ltx2_mlx")
    made = product.encode_prompts(list(prompts), subject.checkpoint, subject.gemma)
    encodings = [(output.video_encoding, output.audio_encoding) for output in made]
    return {
        name: (subject.numpy("ours", video), subject.numpy("ours", audio))
        for name, (video, audio) in zip("AB", encodings, strict=True)
    }


def transformer_case(config: dict[str, Any], sigma: float, contexts: Contexts, latents: Any = None) -> Case:
    """One call of the transformer: all tokens of both streams at ``sigma``."""

    def modality(audio: bool) -> Obj | None:
        if audio and not audio_too(config):
            return None
        values = latent(config, audio) if latents is None else latents[audio]
        fields = {
            "latent": Data(values),
            "sigma": Data(np.array([sigma], np.float32), "none"),
            "timesteps": Data(np.array([[[sigma]]], np.float32), "none"),
            "positions": positions(audio),
            "context": Data(contexts[audio]),
        }
        return Obj("Modality", fields)

    return Case({"video": modality(False), "audio": modality(True), "perturbations": None})
