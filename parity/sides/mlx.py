"""The MLX side."""

from __future__ import annotations

import contextlib
import functools
import importlib
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from ltx2_mlx.loading.checkpoint import CheckpointFiles, CheckpointPath

from ..tap.side import Loras, Side
from ..tap.trace import Tensor


class MLX(Side):
    key, method = "ours", "__call__"

    def is_array(self, value: Any) -> bool:
        return isinstance(value, mx.array)

    def is_module(self, value: Any) -> bool:
        return isinstance(value, nn.Module)

    def dtype(self, name: str) -> mx.Dtype:
        dtype: mx.Dtype = getattr(mx, name)
        return dtype

    def dtype_name(self, value: Any) -> str | None:
        return str(value).removeprefix("mlx.core.") if isinstance(value, mx.Dtype) else None

    def to_numpy(self, value: mx.array) -> Tensor:
        half = value.dtype in (mx.bfloat16, mx.float16)
        return Tensor(np.array(value.astype(mx.float32) if half else value), str(value.dtype).removeprefix("mlx.core."))

    def from_numpy(self, values: np.ndarray, dtype: mx.Dtype) -> mx.array:
        if dtype == mx.float64:  # MLX takes float64 in only where it is told to
            return mx.array(values, dtype)
        return mx.array(values).astype(dtype)

    def load(
        self,
        component: str,
        path: CheckpointPath,
        config: dict[str, Any],
        dtype: str,
        loras: Loras = (),
        quantization: str | None = None,
        paged: bool = False,
    ) -> nn.Module:
        # Looked up when called: `planting.planted` puts a copy with a fault in its place.
        product = importlib.import_module("ltx2_mlx")
        files = [product.LoraPathStrength(*lora) for lora in loras]
        if isinstance(path, CheckpointFiles):
            path = product.CheckpointFiles(**path.given())
        module: nn.Module = product.load(component, path, self.dtype(dtype), files, quantization, paged)
        return module

    def named_modules(self, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
        return iter(module.named_modules())

    def channels_last(self, taps: dict[str, Any], root: str) -> set[str]:
        if not getattr(type(taps[root]), "channels_last", False):
            return set()
        return {name for name, m in taps.items() if name != root and not getattr(type(m), "reference_layout", False)}

    @contextlib.contextmanager
    def running(self, isolated: bool) -> Iterator[None]:
        """An isolated run is not compiled (a compiled function would be tapped once, while it is traced), has no kernel
        of several steps in one, and uses no caches."""
        if not isolated:
            yield
            return
        mx.disable_compile()
        try:
            with _uncached(), mock.patch.object(_product("nn.fused"), "pays", lambda: False):
                yield
        finally:
            mx.enable_compile()


def keep_little() -> None:
    """Give memory that is free back to the system from now on: MLX keeps as much of it as the machine has."""
    mx.set_cache_limit(2**28)


def loaded_weights(path: Path, loras: Loras, dtype: mx.Dtype, quantization: str | None = None) -> dict[str, mx.array]:
    """Every tensor of a transformer as it is loaded; float8 as its bytes."""
    side = MLX()
    module = side.load("transformer", path, {}, str(dtype).removeprefix("mlx.core."), loras, quantization)
    return dict(tree_flatten(module.parameters()))


_CACHED = type(functools.cache(len))


@contextlib.contextmanager
def _uncached() -> Iterator[None]:
    """The product without its caches: calls that they spare would be missing from a trace."""
    with contextlib.ExitStack() as undo:
        for module in [sys.modules[name] for name in sys.modules if name.split(".")[0] == "ltx2_mlx"]:
            for name, value in list(vars(module).items()):
                if isinstance(value, _CACHED):
                    undo.enter_context(mock.patch.object(module, name, value.__wrapped__))
        yield


@contextlib.contextmanager
def shipped(grids: list[np.ndarray]) -> Iterator[None]:
    """The branches that a GPU takes, on whatever device there is: compiled functions, and large copies in pieces (here
    also small ones). Without a compiler the functions stay as they are: see ``compiler_trouble``.

    grids: rotary frequencies of the reference, which its libm defines; ours that are nearly one of them are it.
    """
    with contextlib.ExitStack() as undo:
        for module in ("transformer", "text.embeddings"):
            owner = _product(module)
            for name in [name for name in vars(owner) if name.startswith("generate_freq_grid")]:
                undo.enter_context(mock.patch.object(owner, name, _handing_over(getattr(owner, name), grids)))
        undo.enter_context(mock.patch.object(_product("nn.fused"), "pays", lambda: not compiler_trouble()))
        undo.enter_context(mock.patch.object(_product("nn.conv"), "LARGEST_COPY", _SMALL_COPY))
        yield


def _handing_over(generator: Callable[..., np.ndarray], grids: list[np.ndarray]) -> Callable[..., np.ndarray]:
    def grid(*args: Any) -> np.ndarray:
        own = generator(*args)
        near = (other for other in grids if other.shape == own.shape and np.allclose(other, own, rtol=1e-6, atol=0))
        return next(near, own)

    return grid


_SMALL_COPY = 2**12  # elements


@functools.cache
def compiler_trouble() -> str:
    """Say why ``mx.compile`` does not work here; "" where it does. On a CPU it needs a C++ compiler."""
    try:
        mx.eval(mx.compile(lambda x: mx.sqrt(x) * 3 + x)(mx.ones((3,))))
    except Exception as error:
        return f"nothing can be compiled here, so the compiled functions were not run ({str(error)[:200]})"
    return ""


# ---- loops and noise with what they ask for injected ------------------------------------------------------------


class _Recorded:
    """A generator that hands out recorded numbers, and notes what it is asked for."""

    def __init__(self, draws: list[mx.array], asked: list[Any], name: str = ""):
        self.draws, self.asked, self.name = iter(draws), asked, name

    def randn(self, shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
        self.asked.append([list(shape), dtype])
        return next(self.draws).astype(dtype)

    def randn64(self, shape: tuple[int, ...]) -> np.ndarray:
        self.asked.append([self.name, list(shape)])
        return np.array(next(self.draws)).astype(np.float64)


def _listed(entries: list[Any]) -> list[Any]:
    """Entries after their number: one too many at the end of a list would not be missed otherwise."""
    return [len(entries), *entries]


def decoded_in_slabs(latent: mx.array, video_decoder: Any) -> mx.array:
    with _small_slabs():
        return mx.concatenate(list(video_decoder.decode_in_slabs(latent)), axis=2)


def diffused_in_slabs(latent: mx.array, video_decoder: Any) -> mx.array:
    """In slabs of few frames, and within them a few tokens and one small block of queries at a time."""
    before, video_decoder.slab = video_decoder.slab, 5
    tokens = mock.patch.object(_product("diffusion_decoder"), "_TOKENS", 99)
    with tokens, mock.patch.multiple(_product("nn.neighborhood"), scores=lambda: 1, BLOCK=(2, 4, 4)):
        video: mx.array = video_decoder(latent)
    video_decoder.slab = before
    return video


def encoded_in_slabs(video: mx.array, video_encoder: Any) -> mx.array:
    with _small_slabs():
        latent: mx.array = video_encoder(video)
        return latent


def _small_slabs() -> Any:
    """Slabs of a few frames of the small checkpoints, whose clips would be one slab."""
    return mock.patch.object(_product("vae_memory"), "slab_size", lambda: 2**13)


def noised(noise: mx.array, state: Any, scale: float) -> Any:
    asked: list[Any] = []
    return _product("diffusion.noisers").GaussianNoiser(_Recorded([noise], asked))(state, scale), _listed(asked)


def res2s_step(sample: mx.array, denoised: mx.array, noise: mx.array, sigmas: mx.array) -> Any:
    arrays = {"sample": sample, "denoised_sample": denoised, "noise": noise, "sigmas": sigmas}
    host = {name: np.array(value) for name, value in arrays.items()}
    return _product("diffusion.diffusion_steps").Res2sDiffusionStep().step(step_index=0, **host)


def _told(latent: mx.array, *others: Any) -> mx.array:
    """A sum in which everything that a stand-in is told has a weight of its own; the same stands on torch's side."""
    total = latent.astype(mx.float32) * 0.2
    for i, other in enumerate(others):
        if other is not None:
            value = other.astype(mx.float32) if isinstance(other, mx.array) else other
            total = total + value * (0.07 / (1 + i))
    return total.astype(latent.dtype)


def _ramp(values: mx.array, *axes: int) -> mx.array:
    """The mean over axes, each place weighted by its number."""
    for axis in axes:
        shape = [1] * values.ndim
        shape[axis] = -1
        values = values * mx.arange(1, values.shape[axis] + 1).astype(values.dtype).reshape(shape) / 3
        values = values.mean(axis=axis, keepdims=True)
    return values


def _places(positions: mx.array) -> mx.array:
    """``(B, T, 1)`` of positions ``(B, axes, T, 2)``."""
    return _ramp(positions, 1, 3)[:, 0]


def _strengths(mask: mx.array | None) -> mx.array | None:
    return None if mask is None else _ramp(mask, 2)


def stand_in(targets: tuple[mx.array, mx.array], calls: list[Any]) -> Callable[..., tuple[mx.array, ...]]:
    """In place of a denoising function: adds up what it is told and a target, and lists its calls."""

    def denoise(video: Any, audio: Any, sigmas: np.ndarray, step_index: int) -> tuple[mx.array, ...]:
        sigma = float(sigmas[step_index])
        calls.append([sigma, step_index, len(sigmas)])
        states = video, audio
        return tuple(
            _told(
                *(state.latent, target, state.denoise_mask, state.clean_latent, _places(state.positions)),
                *(_strengths(state.attention_mask), _ramp(other.latent, 1, 2), sigma, step_index, len(sigmas)),
            )
            for state, other, target in zip(states, states[::-1], targets, strict=True)
        )

    return denoise


def _looped(name: str) -> Callable[..., Any]:
    def run(sigmas: mx.array, video: Any, audio: Any, targets: tuple[mx.array, mx.array], noise: list[mx.array]) -> Any:
        calls: list[Any] = []
        drawn: list[Any] = []
        options = {}
        if noise:  # drawn as (substep video, substep audio, step video, step audio)
            for who, wanted in (("substep", (0, 1)), ("step", (2, 3))):
                draws = [x for i, x in enumerate(noise) if i % 4 in wanted]
                options[f"{who}_generator"] = _Recorded(draws, drawn, who)
        states = getattr(_product("diffusion.samplers"), name)(
            np.array(sigmas), video, audio, stand_in(targets, calls), **options
        )
        return states, _listed(calls), _listed(drawn)

    return run


euler_denoising_loop = _looped("euler_denoising_loop")
res2s_audio_video_denoising_loop = _looped("res2s_audio_video_denoising_loop")


class _Network:
    """In place of a transformer: adds up what it is told, and lists its calls. The same is on torch's side."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def __call__(self, video: Any, audio: Any, perturbations: Any) -> tuple[mx.array, ...]:
        kinds = importlib.import_module("ltx2_mlx.diffusion.perturbations").PerturbationType
        places = [(i, kind, block) for i, kind in enumerate(kinds) for block in range(3)]
        cut = [p for p in places if perturbations is not None and perturbations.any_in_batch(*p[1:])]
        whole = [p for p in cut if perturbations.all_in_batch(*p[1:])]
        names = [[f"{i}:{block}" for i, _, block in some] for some in (cut, whole)]
        self.calls.append([video.enabled, audio.enabled, *names])
        both = video, audio
        return tuple(
            _told(
                *(m.latent, _ramp(m.context, 1), m.timesteps, m.sigma.reshape(-1, 1, 1), _places(m.positions)),
                *(_strengths(m.attention_mask), m.context_mask, float(m.enabled), _ramp(other.latent, 1, 2)),
                *(_ramp(other.context, 1, 2), sum(2 ** (3 * i + block - 9) for i, _, block in cut), len(whole)),
                getattr(m, "keyframes_mask", None),
            )
            for m, other in zip(both, both[::-1], strict=True)
        )


ranks: Any = None  # the processes that share the passes of a guided step, where there are several (run/over_ranks.py)


class _SharedNetwork(_Network):
    """The same on several ranks, which share the passes as with the product's transformer. Each lists all calls."""

    def shared(self, passes: Any) -> Any:
        before = len(self.calls)
        results = _product("distributed.models").dealt_out(ranks, passes, self)
        every = [json.loads(words) for words in ranks.told(json.dumps(self.calls[before:]))]
        self.calls[before:] = [call for turn in itertools.zip_longest(*every) for call in turn if call is not None]
        return results


def simple(sigmas: mx.array, video: Any, audio: Any, v_context: mx.array, a_context: mx.array) -> Any:
    network = _Network()
    denoise = _product("diffusion.denoisers").simple_denoising_func(v_context, a_context, network)
    return [denoise(video, audio, np.array(sigmas), i) for i in range(len(sigmas) - 1)], _listed(network.calls)


def guided(
    sigmas: mx.array, video: Any, audio: Any, v_context: mx.array, a_context: mx.array, factories: tuple[Any, Any]
) -> Any:
    network = _Network() if ranks is None else _SharedNetwork()
    function = _product("diffusion.denoisers").multi_modal_guider_factory_denoising_func
    denoise = function(*factories, v_context, a_context, network)
    return [denoise(video, audio, np.array(sigmas), i) for i in range(len(sigmas) - 1)], _listed(network.calls)


def _product(module: str) -> Any:
    return importlib.import_module(f"ltx2_mlx.{module}")
