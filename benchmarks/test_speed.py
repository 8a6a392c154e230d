"""Ours beside torch at the widths of the released checkpoints, with random weights: time, and memory at its fullest.

    make bench                                  all of it; the results go to reports/latest/bench
    make bench ARGS="-k vocoder"

The sides take turns in one process. Where both do not fit into the memory, one is dropped before the other is made, or
each has a process of its own. On an NVIDIA GPU: bfloat16, 48 blocks, and clips of the released sizes. On a CPU:
float32, 2 blocks and clips that fit into 8 GB. The fastest round of each side counts. Paged and packed weights are
compared with ours as they are.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ["MLX_ENABLE_TF32"] = "0"  # before MLX is imported
os.environ["MLX_CUDA_CONV_CACHE_SIZE"] = "1024"  # as ltx2-mlx has it: more shapes than MLX expects
os.environ["MLX_CUDA_GRAPH_CACHE_SIZE"] = "8192"

import mlx.core as mx
import numpy as np
import pytest
import torch
import velocity
import video_vae
from measuring import Resident, both_on_gpu, machine, settle, timed
from mlx.utils import tree_flatten
from pytest_benchmark.fixture import BenchmarkFixture

from ltx2_mlx.config import Gemma3TextConfig, read_vocoder_config
from ltx2_mlx.loading.load import load
from ltx2_mlx.text.gemma3 import Gemma3TextModel
from ltx2_mlx.vocoder import build_vocoder

GPU = both_on_gpu()
DTYPE, ROUNDS, AGREE = ("bfloat16", 5, 5e-2) if GPU else ("float32", 3, 1e-4)
CONFIGS = Path(__file__).parents[1] / "fixtures" / "configs" / "full-size"
BLOCKS, TOKENS = (48, (1536, 6144, 24576)) if GPU else (2, (96,))
Run = Callable[[], Any]
torch.set_grad_enabled(False)
GPU_OF_TORCH = torch.cuda.is_available


@dataclass(frozen=True)
class Part:
    """What both sides compute. Each side is made by a call that gives its run. together: both fit into the memory.
    base: what ours is compared with where torch has nothing like it."""

    ours: Callable[[], Run]
    theirs: Callable[[], Run] | None = None
    base: Callable[[], Run] | None = None
    together: bool = True


# ---- what is measured ---------------------------------------------------------------------------------------------


def _velocity(model: str, tokens: int) -> Part | velocity.Setting:
    setting = velocity.Setting(model, tokens, BLOCKS, DTYPE)
    if GPU:
        return setting

    def ours() -> Run:
        network, streams = velocity.our_model(setting), velocity.our_inputs(setting)
        return lambda: mx.eval(network(*streams))

    def theirs() -> Run:
        network, streams = velocity.their_model(setting), velocity.their_inputs(setting)
        return _waiting(lambda: network(*streams, None))

    return Part(ours, theirs, together=False)


def _video(version: str, part: str, size: tuple[int, int, int]) -> Part:
    setting = video_vae.Setting(version, part, size)
    return Part(lambda: video_vae.our_run(setting, DTYPE), lambda: video_vae.their_run(setting, DTYPE))


def _vocoder(version: str) -> Part:
    config = json.loads((CONFIGS / f"{version}.json").read_text())["config"]
    mel = np.random.default_rng(0).standard_normal((1, 2, 481 if GPU else 33, 64)).astype(np.float32)

    def ours() -> Run:
        module, x = build_vocoder(read_vocoder_config(config)), mx.array(mel)
        _fill(module, mx.float32)
        return lambda: mx.eval(module(x))

    def theirs() -> Run:
        configurator, _ = _reference("parity.sides.torch").BUILDERS["vocoder"](config)
        module = configurator.from_config(config).eval().to("cuda" if GPU else "cpu")
        x = torch.from_numpy(mel).to("cuda" if GPU else "cpu")
        return _waiting(lambda: module(x))

    return Part(ours, theirs)


GEMMA = {  # one layer of Gemma 3 12B
    "hidden_size": 3840,
    "intermediate_size": 15360,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "sliding_window": 1024,
    "num_hidden_layers": 1,
    "vocab_size": 512,
}


def _gemma() -> Part:
    path = Path(__file__).parents[1] / "fixtures" / "checkpoints" / "tiny-gemma" / "config.json"
    config = json.loads(path.read_text())
    config["text_config"] |= GEMMA

    def ours() -> Run:
        module = Gemma3TextModel(Gemma3TextConfig.from_metadata(config))
        _fill(module, getattr(mx, DTYPE))
        ids = mx.ones((1, 1024), mx.int32)
        return lambda: mx.eval(module(ids, ids))

    def theirs() -> Run:
        module = (
            _reference("parity.sides.torch.components")
            .gemma_model(config)
            .to(device="cuda" if GPU else "cpu", dtype=getattr(torch, DTYPE))
            .eval()
        )
        ids = torch.ones((1, 1024), dtype=torch.long, device="cuda" if GPU else "cpu")
        return _waiting(lambda: module(ids, ids))

    return Part(ours, theirs)


def _variant(file: Path, **options: Any) -> Part:
    """The 19B velocity from a file, as it is loaded with these options, beside the plain one."""
    setting = velocity.Setting("19b", min(TOKENS), 2, DTYPE)

    def run(**options: Any) -> Run:
        network = load("transformer", file, getattr(mx, DTYPE), **options)
        streams = velocity.our_inputs(setting)
        return lambda: mx.eval(network(*streams))

    return Part(lambda: run(**options), base=run, together=False)


def _reference(name: str) -> Any:
    """A module of parity's side of torch. That side computes on the CPU, and says that there is no GPU: here it may."""
    module = importlib.import_module(name)
    torch.cuda.is_available = GPU_OF_TORCH
    return module


def _waiting(compute: Run) -> Run:
    def run() -> Any:
        result = compute()
        if GPU:
            torch.cuda.synchronize()
        return result

    return run


def _fill(module: Any, dtype: mx.Dtype) -> None:
    """Random weights, small enough for activations to stay finite."""
    for name, old in tree_flatten(module.parameters()):
        new = (mx.random.normal(old.shape) * max(old.size / old.shape[0], 1) ** -0.5).astype(dtype)
        mx.eval(new)
        module.load_weights([(name, new)], strict=False)


PARTS: dict[str, Callable[[], Part | velocity.Setting]] = {
    **{f"{m} velocity, {n:,} tokens": lambda m=m, n=n: _velocity(m, n) for m in velocity.FIXTURES for n in TOKENS},
    **{
        f"{v} video {part}, {'×'.join(map(str, size))}": lambda v=v, part=part, size=size: _video(v, part, size)
        for v in video_vae.CONFIGS
        for part, sizes in video_vae.SIZES["gpu" if GPU else "cpu"].items()
        for size in sizes
    },
    **{f"{v} vocoder": lambda v=v: _vocoder(v) for v in ("2.0", "2.3")},
    "Gemma 12B, one layer": _gemma,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "paged": {"paged": True},
    **{how: {"quantization": how} for how in (("fp8-cast", "q8", "q4") if GPU else ("fp8-cast",))},  # minutes on a CPU
}


# ---- measuring ----------------------------------------------------------------------------------------------------


@dataclass
class Side:
    """The best time in milliseconds and the peak in GB of one side; result: what its run gave."""

    ms: float
    gb: float
    result: Any = None


def measured(make: Callable[[], Run]) -> tuple[Run, Side]:
    """Make a side, warm it up, and measure its memory, weights included, and one round."""
    resident = Resident()
    if GPU:
        settle()
        torch.cuda.reset_peak_memory_stats()
        before, held = mx.get_active_memory(), torch.cuda.memory_allocated()
        mx.reset_peak_memory()
        run = make()
        result, ms = run(), timed(run)
        peak = max(mx.get_peak_memory() - before, torch.cuda.max_memory_allocated() - held) / 1e9
        return run, Side(ms, peak, result)
    with resident.watched():
        run = make()
        result, ms = run(), timed(run)
    return run, Side(ms, resident.gb, result)


def compare(part: Part, benchmark: BenchmarkFixture) -> dict[str, Any]:
    other = part.theirs or part.base
    assert other is not None
    run, theirs = measured(other)
    times = [theirs.ms, *(timed(run) for _ in range(ROUNDS - 1))]
    again = run if part.together else (lambda: None)
    if not part.together:
        del run
        theirs.result = None
        settle()
    own, ours = measured(part.ours)
    kept = [own]  # or else the fixture would hold the network while the next one is made
    del own
    setup = (lambda: times.append(timed(again))) if part.together else None
    benchmark.pedantic(lambda: kept[0](), setup=setup, rounds=ROUNDS, iterations=1, warmup_rounds=0)
    kept.clear()
    ms = benchmark.stats.stats.min * 1e3
    return {
        "device": "gpu" if GPU else "cpu",
        "dtype": DTYPE,
        "beside": "torch" if part.theirs else "resident",
        "ours_ms": ms,
        "other_ms": min(times),
        "time": ms / min(times),
        "ours_gb": ours.gb,
        "other_gb": theirs.gb,
        "memory": ours.gb / max(theirs.gb, 1e-9),
        "difference": _difference(ours.result, theirs.result),
    }


@functools.cache
def _in_processes(model: str) -> dict[int, tuple[velocity.Measured, velocity.Measured]]:
    """Tokens → torch's velocity and ours, of two processes: what MLX gives back here, torch does not get."""
    settings = [velocity.Setting(model, tokens, BLOCKS, DTYPE) for tokens in TOKENS]
    sides = [velocity.in_a_process(side, settings, ROUNDS, False) for side in ("torch", "mlx")]
    return dict(zip(TOKENS, zip(*sides, strict=True), strict=True))


def apart(setting: velocity.Setting, benchmark: BenchmarkFixture) -> dict[str, Any]:
    theirs, ours = _in_processes(setting.model)[setting.tokens]
    times = iter(ours.milliseconds)  # were measured already: the benchmark's own clock is given the same
    benchmark.pedantic(lambda: time.sleep(next(times) / 1e3), rounds=len(ours.milliseconds), iterations=1)
    return {
        "device": "gpu",
        "dtype": DTYPE,
        "beside": "torch",
        "ours_ms": min(ours.milliseconds),
        "other_ms": min(theirs.milliseconds),
        "time": min(ours.milliseconds) / min(theirs.milliseconds),
        "ours_gb": ours.peak_gb,
        "other_gb": theirs.peak_gb,
        "memory": ours.peak_gb / theirs.peak_gb,
        "difference": ours.difference,
    }


def _difference(ours: Any, theirs: Any) -> float | None:
    """The relative difference of two results of the same weights and inputs; None where there are none."""
    if not isinstance(ours, list) or not isinstance(theirs, torch.Tensor):
        return None
    a = np.concatenate([np.array(part.astype(mx.float32)) for part in ours], axis=2)
    b = theirs.float().cpu().numpy()
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def _reported(name: str, row: dict[str, Any], benchmark: BenchmarkFixture) -> None:
    benchmark.extra_info |= row | {"name": name, "machine": machine()}
    print(f"\n{name}: " + ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))
    assert row["difference"] is None or row["difference"] < AGREE


@pytest.mark.parametrize("name", PARTS)
def test_speed(name: str, benchmark: BenchmarkFixture) -> None:
    part = PARTS[name]()
    row = apart(part, benchmark) if isinstance(part, velocity.Setting) else compare(part, benchmark)
    _reported(name, row, benchmark)


@pytest.fixture(scope="session")
def two_blocks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The first two blocks of 19B in a file, 2.2 GB."""
    import runpy

    folder = tmp_path_factory.mktemp("full-size")
    full = SimpleNamespace(**runpy.run_path(str(CONFIGS.parents[1] / "full_size.py")))
    full.write("2.0", 2, folder, ["transformer"])
    yield folder / "full-2.0.safetensors"
    for file in folder.iterdir():
        file.unlink()


@pytest.mark.parametrize("name", VARIANTS)
def test_variant(name: str, two_blocks: Path, benchmark: BenchmarkFixture) -> None:
    row = compare(_variant(two_blocks, **VARIANTS[name]), benchmark)
    _reported(f"19b velocity, 2 blocks, {name}", row, benchmark)
