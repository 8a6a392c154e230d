"""The MLX side."""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

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
        path: Path,
        config: dict[str, Any],
        dtype: str,
        loras: Loras = (),
        quantization: str | None = None,
    ) -> nn.Module:
        # Looked up when called: `planting.planted` puts a copy with a fault in its place.
        product = importlib.import_module("ltx2_mlx")
        files = [product.LoraPathStrength(*lora) for lora in loras]
        module: nn.Module = product.load(component, path, self.dtype(dtype), files, quantization)
        return module

    def named_modules(self, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
        return iter(module.named_modules())

    @contextlib.contextmanager
    def running(self, isolated: bool) -> Iterator[None]:
        """An isolated run is not compiled (a compiled function would be tapped once, while it is traced), and uses no
        caches."""
        if not isolated:
            yield
            return
        mx.disable_compile()
        try:
            with _uncached():
                yield
        finally:
            mx.enable_compile()


def loaded_weights(path: Path, loras: Loras, dtype: mx.Dtype, quantization: str | None = None) -> dict[str, mx.array]:
    """Every tensor of a transformer as it is loaded; float8 as its bytes."""
    side = MLX()
    module = side.load("transformer", path, {}, str(dtype).removeprefix("mlx.core."), loras, quantization)
    return dict(tree_flatten(module.parameters()))


@contextlib.contextmanager
def _uncached() -> Iterator[None]:
    """The product without its caches: calls that they spare would be missing from a trace."""
    with contextlib.ExitStack() as undo:
        for module in [sys.modules[name] for name in sys.modules if name.split(".")[0] == "ltx2_mlx"]:
            for name, value in list(vars(module).items()):
                if hasattr(value, "cache_clear"):
                    undo.enter_context(mock.patch.object(module, name, value.__wrapped__))
        yield


@contextlib.contextmanager
def shipped() -> Iterator[None]:
    """The branches that a GPU takes, on whatever device there is: compiled functions, and large copies in pieces (here
    also small ones). Without a compiler the functions stay as they are: see ``compiler_trouble``."""
    with contextlib.ExitStack() as undo:
        undo.enter_context(mock.patch.object(_product("nn.fused"), "pays", lambda: not compiler_trouble()))
        undo.enter_context(mock.patch.object(_product("nn.conv"), "LARGEST_COPY", _SMALL_COPY))
        yield


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
    """A generator that hands out recorded numbers."""

    def __init__(self, draws: list[mx.array]):
        self.draws = iter(draws)

    def randn(self, shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
        return next(self.draws).astype(dtype)

    def randn64(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.array(next(self.draws)).astype(np.float64)


def noised(noise: mx.array, state: Any, scale: float) -> Any:
    return _product("diffusion.noisers").GaussianNoiser(_Recorded([noise]))(state, scale)


def res2s_step(sample: mx.array, denoised: mx.array, noise: mx.array, sigmas: mx.array) -> Any:
    arrays = {"sample": sample, "denoised_sample": denoised, "noise": noise, "sigmas": sigmas}
    host = {name: np.array(value) for name, value in arrays.items()}
    return _product("diffusion.diffusion_steps").Res2sDiffusionStep().step(step_index=0, **host)


def _looped(name: str) -> Callable[..., Any]:
    def run(sigmas: mx.array, video: Any, audio: Any, targets: tuple[mx.array, mx.array], noise: list[mx.array]) -> Any:
        def denoise(video: Any, audio: Any, sigmas: np.ndarray, step_index: int) -> tuple[mx.array, mx.array]:
            return video.latent * 0.2 + targets[0], audio.latent * 0.2 + targets[1]

        options = {}
        if noise:  # drawn as (substep video, substep audio, step video, step audio)
            halves = [x for i, x in enumerate(noise) if i % 4 < 2], [x for i, x in enumerate(noise) if i % 4 > 1]
            options = {"substep_generator": _Recorded(halves[0]), "step_generator": _Recorded(halves[1])}
        return getattr(_product("diffusion.samplers"), name)(np.array(sigmas), video, audio, denoise, **options)

    return run


euler_denoising_loop = _looped("euler_denoising_loop")
res2s_audio_video_denoising_loop = _looped("res2s_audio_video_denoising_loop")


def _network(video: Any, audio: Any, perturbations: Any) -> tuple[mx.array, mx.array]:
    """In place of a transformer: adds up what it is told. The same stands on the reference's side."""
    kinds = importlib.import_module("ltx2_mlx.diffusion.perturbations").PerturbationType
    cut = sum(
        0.01 * 2 ** (3 * i + block)
        for i, kind in enumerate(kinds)
        for block in range(3)
        if perturbations is not None and perturbations.any_in_batch(kind, block)
    )
    return tuple(
        m.latent * 0.3 + m.context.mean(axis=1, keepdims=True) + m.timesteps.astype(m.latent.dtype) * 0.1 + cut
        for m in (video, audio)
    )


def simple(sigmas: mx.array, video: Any, audio: Any, v_context: mx.array, a_context: mx.array) -> list[Any]:
    denoise = _product("diffusion.denoisers").simple_denoising_func(v_context, a_context, _network)
    return [denoise(video, audio, np.array(sigmas), i) for i in range(len(sigmas) - 1)]


def guided(
    sigmas: mx.array, video: Any, audio: Any, v_context: mx.array, a_context: mx.array, factories: tuple[Any, Any]
) -> list[Any]:
    function = _product("diffusion.denoisers").multi_modal_guider_factory_denoising_func
    denoise = function(*factories, v_context, a_context, _network)
    return [denoise(video, audio, np.array(sigmas), i) for i in range(len(sigmas) - 1)]


def _product(module: str) -> Any:
    return importlib.import_module(f"ltx2_mlx.{module}")
