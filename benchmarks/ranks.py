"""The transformer's velocity on one GPU and split over two of one host (NCCL), at the released checkpoints' widths.

    python benchmarks/ranks.py --json reports/latest/ranks.json
    python benchmarks/ranks.py --ranks 2 --model 19b --tokens 96 --blocks 2 --engine ring

ltx-core in torch on one GPU stands beside them. Random weights, the same ones in both of ours: each rank draws a whole
parameter and keeps its part, so that the results can be compared. What is measured runs in processes of its own, and
each result is printed as it comes. On a machine without an NVIDIA GPU it is correctness only (``--engine ring``), and
its times mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

from measuring import timed
from velocity import FIXTURES, GRIDS, Setting, in_a_process, our_inputs, weight_scale

WARM, ROUNDS = 2, 4
LIMIT = 150  # seconds for one measurement


def build(setting: Setting, ranks: Any) -> Any:
    """The velocity model with random weights, or a rank's part of the same."""
    import mlx.core as mx

    from ltx2_mlx.config import TransformerConfig
    from ltx2_mlx.distributed.layers import shard
    from ltx2_mlx.distributed.table import parts_of, shapes_of
    from ltx2_mlx.transformer import LTXModel

    model = LTXModel(TransformerConfig.from_metadata({"transformer": setting.transformer}))
    shapes, parts = shapes_of(model), {}
    if ranks is not None:
        parts = parts_of("transformer", model, shapes, ranks.rank, ranks.size)
        shard("transformer", model, ranks)
    dtype = getattr(mx, setting.dtype)
    for name, shape in shapes.items():
        mean, deviation = weight_scale(name, shape)
        array = mx.random.normal(shape, dtype=dtype, key=mx.random.key(zlib.crc32(name.encode()))) * deviation + mean
        if (part := parts.get(name)) is not None:
            own = (slice(None),) * part.axis + (slice(part.first, part.last),)
            array = mx.zeros_like(array) if part.empty else array[own]
        array = mx.contiguous(array.astype(dtype))
        mx.eval(array)
        model.load_weights([(name, array)], strict=False)
    mx.clear_cache()
    return model


def measure(settings: list[Setting], out: Path | None) -> None:
    """Print a line of JSON for each size. out: a folder for the result."""
    import mlx.core as mx
    import numpy as np

    from ltx2_mlx.distributed.ranks import join, rank_here

    ranks = join() if rank_here() is not None else None
    model = build(settings[0], ranks)
    weights = mx.get_active_memory() / 1e9
    for setting in settings:
        mx.random.seed(1)
        streams = our_inputs(setting)

        def velocity(streams: Any = streams) -> Any:
            result = model(*streams)
            mx.eval(result)
            return result

        for _ in range(WARM):
            result = velocity()
        mx.clear_cache()
        mx.reset_peak_memory()
        times = [timed(velocity) for _ in range(ROUNDS)]
        row = {"tokens": setting.tokens, "ms": times, "weights_gb": weights, "peak_gb": mx.get_peak_memory() / 1e9}
        if ranks is not None:
            x = mx.ones((1, setting.tokens, 4096), getattr(mx, setting.dtype))
            mx.eval(ranks.sum(x))
            row["sum_ms"] = statistics.median(timed(lambda x=x: mx.eval(ranks.sum(x))) for _ in range(10))
        if out is not None and (ranks is None or ranks.first):
            size = 1 if ranks is None else ranks.size
            np.save(out / f"{setting.tokens}-{size}.npy", np.array(result[0].astype(mx.float32)))
        if ranks is None or ranks.first:
            print(json.dumps(row), flush=True)


def environment(rank: int, size: int, engine: str, folder: Path) -> dict[str, str]:
    """The variables that ``mlx.launch`` sets for a rank of this host."""
    if engine == "ring":
        hosts = folder / "hosts.json"
        hosts.write_text(json.dumps([[f"127.0.0.1:{32400 + i}"] for i in range(size)]))
        return {"MLX_RANK": str(rank), "MLX_HOSTFILE": str(hosts)}
    found = {"MLX_RANK": str(rank), "MLX_WORLD_SIZE": str(size), "NCCL_HOST_IP": "127.0.0.1", "NCCL_PORT": "12355"}
    return found | {"CUDA_VISIBLE_DEVICES": str(rank)}


def torchs(model: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of ltx-core on one GPU: no rank of ours."""
    settings = [Setting(model, n, arguments.blocks, arguments.dtype) for n in arguments.tokens]
    measured = in_a_process("torch", settings, ROUNDS, False)
    rows = [
        {"tokens": s.tokens, "ms": m.milliseconds, "peak_gb": m.peak_gb, "model": model, "ranks": 0}
        for s, m in zip(settings, measured, strict=True)
    ]
    for row in rows:
        print(f"{model} {row['tokens']:,} tokens in torch: {statistics.median(row['ms']):,.0f} ms", flush=True)
    return rows


def run(size: int, model: str, arguments: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """The rows of one number of ranks, measured in processes of their own; fewer where they fail or take too long."""
    command = [sys.executable, __file__, "--measure", str(folder), "--model", model, "--blocks", str(arguments.blocks)]
    command += ["--dtype", arguments.dtype, "--tokens", *map(str, arguments.tokens)]
    own = [environment(rank, size, arguments.engine, folder) if size > 1 else {} for rank in range(size)]
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | variables) for variables in own
    ]
    rows = []
    try:
        output, _ = started[0].communicate(timeout=LIMIT)
        rows = [json.loads(line) | {"model": model, "ranks": size} for line in output.splitlines() if line[:1] == "{"]
    except subprocess.TimeoutExpired:
        print(f"{model} on {size}: not finished after {LIMIT} s", flush=True)
    finally:
        for process in started:
            process.kill()
            process.wait()
    for row in rows:
        more = f", all-sum {row['sum_ms']:.2f} ms" if "sum_ms" in row else ""
        said = f"{statistics.median(row['ms']):,.0f} ms, {row['weights_gb']:.1f} GB of weights, {row['peak_gb']:.1f} GB"
        print(f"{model} {row['tokens']:,} tokens on {size}: {said}{more}", flush=True)
    return rows


def table(rows: list[dict[str, Any]], folder: Path) -> str:
    """The rows in Markdown, two ranks beside one."""
    import numpy as np

    lines = ["| velocity | ltx-core on one | one | two, each | time | difference |", "|---|---|---|---|---|---|"]
    for one in (row for row in rows if row["ranks"] == 1):
        for two in (r for r in rows if r["ranks"] > 1 and (r["model"], r["tokens"]) == (one["model"], one["tokens"])):
            beside = [r for r in rows if r["ranks"] == 0 and (r["model"], r["tokens"]) == (one["model"], one["tokens"])]
            cells = [f"{statistics.median(row['ms']):,.0f} / {row['peak_gb']:.1f}" for row in (*beside, one, two)]
            cells = ["–"] * (3 - len(cells)) + cells
            files = [folder / one["model"] / f"{one['tokens']}-{row['ranks']}.npy" for row in (one, two)]
            a, b = (np.load(file) for file in files)
            apart = f"{np.linalg.norm(a - b) / np.linalg.norm(a):.1e}"
            ratio = statistics.median(two["ms"]) / statistics.median(one["ms"])
            name = f"{one['model']}, {one['tokens']:,} tokens"
            lines.append(f"| {name} | {' | '.join(cells)} | {ratio:.2f} × | {apart} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=FIXTURES, nargs="+", default=list(FIXTURES))
    parser.add_argument("--tokens", type=int, choices=GRIDS, nargs="+", default=[6144, 24576])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--blocks", type=int, default=48)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--engine", choices=("nccl", "ring"), default="nccl")
    parser.add_argument("--json", type=Path, help="save the rows here")
    parser.add_argument("--measure", type=Path, metavar="FOLDER", help="measure in this process, and print JSON")
    arguments = parser.parse_args()
    if arguments.measure:
        settings = [Setting(arguments.model[0], n, arguments.blocks, arguments.dtype) for n in arguments.tokens]
        measure(settings, arguments.measure)
        return
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        for model in arguments.model:
            folder = Path(temporary) / model
            folder.mkdir()
            if arguments.engine == "nccl":
                rows += torchs(model, arguments)
            for size in (1, arguments.ranks):
                rows += run(size, model, arguments, folder)
                if arguments.json:
                    arguments.json.parent.mkdir(parents=True, exist_ok=True)
                    arguments.json.write_text(json.dumps(rows, indent=1))
        print(table(rows, Path(temporary)))


if __name__ == "__main__":
    main()
