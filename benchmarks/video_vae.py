"""The video VAE beside ltx-core's, at the widths of the released checkpoints, with random weights.

    python benchmarks/video_vae.py                                   # both versions, decoding and encoding
    python benchmarks/video_vae.py --version 2.3 --part decode --slab 33554432

Time, peak memory, and the error that half precision leaves: the distance from ltx-core in float32. Both sides have the
same weights and input. Each measurement is a process of its own: after an operation that is too large to launch, a
process can run nothing more on a GPU. On a CPU the sizes are small.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from measuring import timed

Sizes = tuple[int, int, int]


def _res(layers: int) -> list[Any]:
    return ["res_x", {"num_layers": layers}]


_SHARED = {
    "dims": 3,
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 128,
    "norm_layer": "pixel_norm",
    "patch_size": 4,
    "latent_log_var": "uniform",
    "causal_decoder": False,
    "timestep_conditioning": False,
    "decoder_base_channels": 128,
}
_ENCODER = [_res(4), ["compress_space_res", {"multiplier": 2}], _res(6), ["compress_time_res", {"multiplier": 2}]]
CONFIGS: dict[str, dict[str, Any]] = {
    "2.0": _SHARED
    | {
        "encoder_blocks": [*_ENCODER, _res(6), *[["compress_all_res", {"multiplier": 2}], _res(2)] * 2],
        "decoder_blocks": [*[_res(5), ["compress_all", {"residual": True, "multiplier": 2}]] * 3, _res(5)],
    },
    "2.3": _SHARED
    | {
        "encoder_blocks": [
            *_ENCODER,
            _res(4),
            ["compress_all_res", {"multiplier": 2}],
            _res(2),
            ["compress_all_res", {"multiplier": 1}],
            _res(2),
        ],
        "decoder_blocks": [
            _res(4),
            ["compress_space", {"multiplier": 2}],
            _res(6),
            ["compress_time", {"multiplier": 2}],
            _res(4),
            ["compress_all", {"multiplier": 1}],
            _res(2),
            ["compress_all", {"multiplier": 2}],
            _res(2),
        ],
        "spatial_padding_mode": "zeros",
    },
}
SIZES: dict[str, dict[str, list[Sizes]]] = {
    "gpu": {"decode": [(121, 512, 768)], "encode": [(121, 512, 768), (25, 1024, 1536)]},
    "cpu": {"decode": [(9, 64, 96)], "encode": [(9, 64, 96)]},
}
SIDES = {
    "gpu": ("torch float32", "torch bfloat16", "mlx float32", "mlx bfloat16"),
    "cpu": ("torch float32", "mlx float32"),
}
KEPT = np.s_[:, :, :, ::3, ::5]  # of a result, to compare


@dataclass(frozen=True)
class Setting:
    """What both sides compute. slab: elements of one slab of ours, 0 for the product's own choice."""

    version: str
    part: str
    size: Sizes
    slab: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        frames, height, width = self.size
        if self.part == "encode":
            return (1, 3, frames, height, width)
        return (1, 128, (frames - 1) // 8 + 1, height // 32, width // 32)


@dataclass
class Measured:
    """Milliseconds of each round, and peak memory in GB, weights included."""

    milliseconds: list[float]
    peak_gb: float


def values(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The random values of a parameter, by its name and torch's shape, so that activations stay near 1."""
    generator = np.random.default_rng(list(name.encode()))
    if name == "per_channel_statistics.std-of-means":
        return np.ones(shape, np.float32)
    scale = float(np.prod(shape[1:])) ** -0.5 if len(shape) > 1 else 0.1
    return generator.standard_normal(shape, np.float32) * np.float32(scale)


def our_run(setting: Setting, dtype: str) -> Callable[[], list[Any]]:
    """Ours, with random weights: a function that computes and gives the parts of the result, in order of time."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    from ltx2_mlx import vae_memory
    from ltx2_mlx.config import VideoVAEConfig
    from ltx2_mlx.video_vae import VideoDecoder, VideoEncoder

    if setting.slab:
        vae_memory.slab_size = lambda: setting.slab
    kind = getattr(mx, dtype)
    config = VideoVAEConfig.from_metadata({"vae": CONFIGS[setting.version]})
    module = VideoDecoder(config) if setting.part == "decode" else VideoEncoder(config)
    for name, old in tree_flatten(module.parameters()):
        shape = old.shape if old.ndim < 5 else (old.shape[0], old.shape[-1], *old.shape[1:-1])
        new = mx.array(values(name, shape)).astype(mx.bfloat16).astype(kind)
        new = new if old.ndim < 5 else mx.contiguous(new.transpose(0, 2, 3, 4, 1))
        mx.eval(new)
        module.load_weights([(name, new)], strict=False)
    x = mx.array(values("input", setting.shape) * float(np.prod(setting.shape[1:])) ** 0.5)
    x = x.astype(mx.bfloat16).astype(kind)
    mx.eval(x)

    def run() -> list[mx.array]:
        if isinstance(module, VideoDecoder):
            result = []
            for frames in module.decode_in_slabs(x):
                mx.eval(frames)
                result.append(frames)
            return result
        result = [module(x)]
        mx.eval(result)
        return result

    return run


def their_run(setting: Setting, dtype: str) -> Callable[[], Any]:
    """ltx-core's, with the same weights and input: a function that computes and gives the result."""
    import torch
    from ltx_core.model.video_vae import VideoDecoderConfigurator, VideoEncoderConfigurator

    torch.set_grad_enabled(False)
    torch.backends.cudnn.allow_tf32 = False
    gpu = torch.cuda.is_available()
    device, kind = "cuda" if gpu else "cpu", getattr(torch, dtype)
    build = VideoDecoderConfigurator if setting.part == "decode" else VideoEncoderConfigurator
    with torch.device("meta"):
        module = build.from_config({"vae": CONFIGS[setting.version]}).to(kind)
    module = module.to_empty(device=device).eval()
    for name, old in module.state_dict().items():
        old.copy_(torch.from_numpy(values(name, tuple(old.shape))).bfloat16().to(kind))
    x = torch.from_numpy(values("input", setting.shape) * float(np.prod(setting.shape[1:])) ** 0.5)
    x = x.bfloat16().to(device=device, dtype=kind)

    def run() -> Any:
        result = module(x)
        if gpu:
            torch.cuda.synchronize()
        return result

    return run


def measure_mlx(setting: Setting, dtype: str, rounds: int) -> tuple[Measured, np.ndarray]:
    import mlx.core as mx

    run = our_run(setting, dtype)
    run()
    mx.clear_cache()
    mx.reset_peak_memory()
    times = [timed(run) for _ in range(rounds)]
    peak = mx.get_peak_memory() / 1e9
    kept = [np.array(part.astype(mx.float32))[KEPT] for part in run()]
    return Measured(times, peak), np.concatenate(kept, axis=2)


def measure_torch(setting: Setting, dtype: str, rounds: int) -> tuple[Measured, np.ndarray]:
    import torch

    run = their_run(setting, dtype)
    run()
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    times = [timed(run) for _ in range(rounds)]
    peak = torch.cuda.max_memory_allocated() / 1e9 if gpu else 0.0
    return Measured(times, peak), run().float().cpu().numpy()[KEPT]


MEASURES = {"mlx": measure_mlx, "torch": measure_torch}


def in_a_process(side: str, setting: Setting, arguments: argparse.Namespace, result: Path) -> Measured | str:
    """One side's numbers, or in one line why there are none."""
    command = [sys.executable, __file__, "--side", side, "--version", setting.version, "--part", setting.part]
    command += ["--size", *map(str, setting.size), "--slab", str(setting.slab), "--rounds", str(arguments.rounds)]
    try:
        done = subprocess.run(
            [*command, "--result", str(result)], capture_output=True, text=True, timeout=arguments.limit
        )
    except subprocess.TimeoutExpired:
        return f"not done in {arguments.limit} s"
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def compared(setting: Setting, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure all sides of one setting, print them, and return their row."""
    row: dict[str, Any] = asdict(setting)
    with tempfile.TemporaryDirectory() as folder:
        truth = None
        print(f"{setting.version} {setting.part} {'×'.join(map(str, setting.size))}", flush=True)
        for side in SIDES[device()]:
            path = Path(folder) / f"{side}.npy"
            found = in_a_process(side, setting, arguments, path)
            if isinstance(found, str):
                row[side] = found
                print(f"  {side:<15}{found}", flush=True)
                continue
            result = np.load(path)
            truth = result if side == "torch float32" else truth
            error = float(np.linalg.norm(result - truth) / np.linalg.norm(truth)) if truth is not None else None
            best = min(found.milliseconds)
            row[side] = {"ms": best, "peak_gb": found.peak_gb, "error": error}
            print(f"  {side:<15}{best:9.1f} ms  {found.peak_gb:6.2f} GB  error {error}", flush=True)
    return row


def device() -> str:
    import mlx.core as mx

    return "gpu" if mx.default_device().type == mx.gpu else "cpu"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--version", choices=CONFIGS, nargs="+", default=list(CONFIGS))
    parser.add_argument("--part", choices=SIZES["gpu"], nargs="+", default=list(SIZES["gpu"]))
    parser.add_argument("--size", type=int, nargs=3, metavar=("FRAMES", "HEIGHT", "WIDTH"))
    parser.add_argument("--slab", type=int, default=0, metavar="N", help="elements of a slab (default: as the product)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=int, default=120, help="seconds that one measurement may take (default: 120)")
    parser.add_argument("--json", type=Path, help="save the rows here")
    parser.add_argument("--side", choices=SIDES["gpu"] + SIDES["cpu"], help="measure this side alone and print JSON")
    parser.add_argument("--result", type=Path, help="with --side: where its result is kept")
    arguments = parser.parse_args()
    rows = []
    for version in arguments.version:
        for part in arguments.part:
            for size in [tuple(arguments.size)] if arguments.size else SIZES[device()][part]:
                setting = Setting(version, part, size, arguments.slab)
                if arguments.side is None:
                    rows.append(compared(setting, arguments))
                    continue
                name, dtype = arguments.side.split()
                found, result = MEASURES[name](setting, dtype, arguments.rounds if dtype == "bfloat16" else 1)
                np.save(arguments.result, result)
                print(json.dumps(asdict(found)))
    if arguments.json and rows:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
