"""The video VAE beside torch's, in one process, at the channel widths of the released 2.3 checkpoints.

    python -m pytest -n 0 benchmarks

Weights are random (time does not depend on them). bfloat16 where both frameworks have a GPU, float32 on the CPU with
a clip that fits. Both sides take turns and must agree; the fastest round of each counts.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from safetensors.torch import save_file

import ltx2_mlx
from parity.sides.torch import BUILDERS, Torch

VAE = {
    "dims": 3,
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 128,
    "encoder_blocks": [
        ["res_x", {"num_layers": 4}],
        ["compress_space_res", {"multiplier": 2}],
        ["res_x", {"num_layers": 6}],
        ["compress_time_res", {"multiplier": 2}],
        ["res_x", {"num_layers": 4}],
        ["compress_all_res", {"multiplier": 2}],
        ["res_x", {"num_layers": 2}],
        ["compress_all_res", {"multiplier": 1}],
        ["res_x", {"num_layers": 2}],
    ],
    "decoder_blocks": [
        ["res_x", {"num_layers": 4}],
        ["compress_space", {"multiplier": 2}],
        ["res_x", {"num_layers": 6}],
        ["compress_time", {"multiplier": 2}],
        ["res_x", {"num_layers": 4}],
        ["compress_all", {"multiplier": 1}],
        ["res_x", {"num_layers": 2}],
        ["compress_all", {"multiplier": 2}],
        ["res_x", {"num_layers": 2}],
    ],
    "norm_layer": "pixel_norm",
    "patch_size": 4,
    "latent_log_var": "uniform",
    "causal_decoder": False,
    "timestep_conditioning": False,
    "decoder_base_channels": 128,
    "spatial_padding_mode": "zeros",
}
GPU = torch.cuda.is_available() and mx.default_device().type == mx.gpu
DTYPE = "bfloat16" if GPU else "float32"
FRAMES, HEIGHT, WIDTH = (121, 512, 768) if GPU else (9, 64, 96)
LATENT = (1, 128, (FRAMES - 1) // 8 + 1, HEIGHT // 32, WIDTH // 32)
SHAPES = {"video_encoder": (1, 3, FRAMES, HEIGHT, WIDTH), "video_decoder": LATENT}
PREFIX = {"video_encoder": "vae.encoder.", "video_decoder": "vae.decoder."}
AGREE = 5e-2 if GPU else 1e-5  # relative error, measured on the result
ROUNDS = 3


def checkpoint(component: str, folder: Path) -> Path:
    """Random weights under the official keys, in the dtype that is measured."""
    configurator, _ = BUILDERS[component]({"vae": VAE})
    with torch.device("meta"):
        shapes = {name: t.shape for name, t in configurator.from_config({"vae": VAE}).state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=generator) / max(np.prod(shape[1:]), 1) ** 0.5
        shared = name.startswith("per_channel_statistics.")
        values = values.abs() + 0.5 if shared else values
        tensors[("vae." if shared else PREFIX[component]) + name] = values.to(getattr(torch, DTYPE))
    path = folder / f"{component}.safetensors"
    save_file(tensors, str(path), metadata={"config": json.dumps({"vae": VAE}), "model_version": "2.3.0"})
    return path


def settle() -> None:
    """Give back what is free but kept: MLX's cache, the C library's heap."""
    gc.collect()
    mx.clear_cache()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


class Resident:
    """The process's memory while something runs: its peak above what it was before, in GB."""

    def __init__(self) -> None:
        self.gb = 0.0

    @staticmethod
    def _now() -> float:
        statm = Path("/proc/self/statm")
        if statm.exists():
            return int(statm.read_text().split()[1]) * resource.getpagesize() / 1e9
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        settle()
        before, done = self._now(), threading.Event()

        def watch() -> None:
            while not done.wait(0.002):
                self.gb = max(self.gb, self._now() - before)

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def timed(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


@pytest.mark.parametrize("component", SHAPES)
def test_video_vae(component: str, benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    path = checkpoint(component, tmp_path)
    theirs = Torch().load(component, path, {"vae": VAE}, DTYPE).to("cuda" if GPU else "cpu")
    ours = ltx2_mlx.load(component, path, getattr(mx, DTYPE))
    mx.eval(ours.parameters())
    values = np.random.default_rng(0).standard_normal(SHAPES[component]).astype(np.float32)
    x = mx.array(values).astype(getattr(mx, DTYPE))
    y = torch.from_numpy(values).to(device="cuda" if GPU else "cpu", dtype=getattr(torch, DTYPE))
    results: dict[str, object] = {}

    def run_torch() -> None:
        results["torch"] = theirs(y)
        if GPU:
            torch.cuda.synchronize()

    def run_mlx() -> None:
        results["mlx"] = ours(x)
        mx.eval(results["mlx"])

    memory: dict[str, float] = {}
    kept: dict[str, object] = {}
    mx.reset_peak_memory()
    for name, function in (("torch", run_torch), ("mlx", run_mlx)):
        function()  # once to warm up, so that the weights are in memory; once watched
        results.clear()
        resident = Resident()
        with resident.watched():
            function()
        memory[name] = resident.gb
        kept[name] = results[name]
    if GPU:
        memory["torch"] = torch.cuda.max_memory_allocated() / 1e9
        memory["mlx"] = mx.get_peak_memory() / 1e9
    a, b = np.array(kept["mlx"].astype(mx.float32)), kept["torch"].float().cpu().numpy()
    error = float(np.linalg.norm(a - b) / np.linalg.norm(b))
    assert error < AGREE

    torch_seconds: list[float] = []
    benchmark.pedantic(
        run_mlx, setup=lambda: torch_seconds.append(timed(run_torch)), rounds=ROUNDS, iterations=1, warmup_rounds=0
    )
    seconds = benchmark.stats.stats.min
    benchmark.extra_info |= {
        "device": "gpu" if GPU else "cpu",
        "dtype": DTYPE,
        "input": list(SHAPES[component]),
        "threads": torch.get_num_threads(),
        "mlx_seconds": seconds,
        "torch_seconds": min(torch_seconds),
        "mlx_over_torch": seconds / min(torch_seconds),
        "mlx_peak_gb": memory["mlx"],
        "torch_peak_gb": memory["torch"],
        "relative_difference": error,
    }
    line = ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in benchmark.extra_info.items())
    print(f"\n{component}: {line}")
