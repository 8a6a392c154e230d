"""The table and the picture of what ``depth.py`` measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from parity.declare.landmarks import STREAM_STD, TEXT_SHARE

NAMES = {"2.0": "LTX-2 19B", "2.3": "LTX-2.3 22B"}
SHOWN = (0, 1, 11, 23, 35, 47, 48, "velocity")
OURS, TORCH = "#0072b2", "#999999"
STYLES = {0: "-", 1: "--"}  # by size
FLOOR = 1e-17


def table(files: list[Path], out: Path) -> None:
    """Write depth.json, depth.md and depth.png into ``out``. files: of depth.py's parts, or a depth.json."""
    read = [json.loads(file.read_text()) for file in files]
    results = [result for one in read for result in (one if isinstance(one, list) else [one])]
    out.mkdir(parents=True, exist_ok=True)
    (out / "depth.json").write_text(json.dumps(shortened(results), separators=(",", ":")) + "\n")
    (out / "depth.md").write_text("\n".join(markdown(results)) + "\n")
    deep = [result for result in results if result["part"] == "transformer"]
    if deep:
        picture(deep, out / "depth.png")


def shortened(value: Any) -> Any:
    """The same with four digits of each number."""
    if isinstance(value, dict):
        return {key: shortened(one) for key, one in value.items()}
    if isinstance(value, list):
        return [shortened(one) for one in value]
    return float(f"{value:.4g}") if isinstance(value, float) and abs(value - 1) > 0.1 else value


def markdown(results: list[dict[str, Any]]) -> list[str]:
    one = results[0]
    lines = [
        "# Ours beside ltx-core at the released sizes",
        "",
        f"Measured on one {one['device']}, MLX {one['mlx']}, torch {one['torch']}, by",
        "`benchmarks/depth.py`: random weights of the released shapes (`fixtures/full_size.py`), text of",
        "1,024 tokens, 126 audio tokens, both sides in one run. *Isolated*: ours gets ltx-core's input of the",
        "block. *Free*: each goes on from its own. Errors are relative L2 distances; the oracle is ltx-core in",
        "float64 with the same weights. Its free run begins with what ltx-core passes to the first block, so that",
        "ours probably shows from there on the distance of two float32 sinusoids of the timestep (4e-6 to 8e-6; ours",
        "is up to 1.3 times as far from the exact one as ltx-core's). `depth.json` has every block.",
    ]
    for result in results:
        cells = dict.fromkeys((row["dtype"], row["tokens"]) for row in result["rows"])
        for dtype, tokens in cells if result["part"] in ("transformer", "gemma") else [(None, None)]:
            rows = [row for row in result["rows"] if dtype is None or (row["dtype"], row["tokens"]) == (dtype, tokens)]
            lines += ["", *section(result, rows, dtype, tokens)]
    return lines


def section(result: dict[str, Any], rows: list[dict[str, Any]], dtype: str | None, tokens: int | None) -> list[str]:
    if result["part"] != "transformer":
        return _other(result, rows, dtype, tokens)
    heads = ["block", "stream", "std", "text share"]
    heads += ["isolated: 1 − r", "std ratio", "ours, torch to oracle"]
    heads += ["free: 1 − r", "std ratio", "error", "ours, torch to oracle"]
    lines = [f"## {NAMES[result['version']]}, {dtype}, {tokens:,} video tokens", "", *_head(heads)]
    for row in rows:
        if row["block"] not in SHOWN:
            continue
        alone, free = row["isolated"], row["free"]
        cells = [str(row["block"]), row["stream"], f"{row['std']:.3g}"]
        cells.append(f"{row['text_share']:.1%}" if row["text_share"] is not None else "–")
        cells += [_r(alone), f"{alone['std_ratio']:.5f}", _far(alone)] if alone else ["–"] * 3
        cells += [_r(free), f"{free['std_ratio']:.5f}", f"{free['rel_l2']:.1e}", _far(free)]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _other(result: dict[str, Any], rows: list[dict[str, Any]], dtype: str | None, tokens: int | None) -> list[str]:
    gemma = result["part"] == "gemma"
    name = f"Gemma 3 12B, {dtype}, {tokens:,} tokens" if gemma else f"{result['part']} of {NAMES[result['version']]}"
    heads = ["state" if gemma else "output", "dtype", "std", "1 − r", "std ratio", "error"]
    lines = [f"## {name}", "", *_head([*heads, "ours, torch to torch float32"])]
    for row in rows:
        if not gemma or row["block"] in SHOWN:
            free = row["free"]
            cells = [str(row["block"] if gemma else row["stream"]), row["dtype"], f"{row['std']:.3g}", _r(free)]
            cells += [
                f"{free['std_ratio']:.5f}",
                f"{free['rel_l2']:.1e}",
                _far(free) if row["dtype"] != "float32" else "–",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def _head(names: list[str]) -> list[str]:
    return ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]


def _r(measured: dict[str, float]) -> str:
    return f"{max(measured['one_minus_r'], 0):.1e}"


def _far(measured: dict[str, float]) -> str:
    if "ours_from_exact" not in measured:
        return "–"
    return f"{measured['ours_from_exact']:.1e}, {measured['torch_from_exact']:.1e}"


def picture(results: list[dict[str, Any]], path: Path) -> None:
    """A column a checkpoint, of the video stream: correlation, std with its landmarks, errors isolated and free."""
    figure, axes = plt.subplots(4, len(results), figsize=(6.4 * len(results), 12), sharex=True, squeeze=False)
    figure.subplots_adjust(left=0.075, right=0.99, top=0.95, bottom=0.045, hspace=0.09, wspace=0.16)
    for column, result in enumerate(results):
        rows = [row for row in result["rows"] if row["stream"] == "video" and row["block"] != "velocity"]
        for dtype, colour in (("float32", "#0072b2"), ("bfloat16", "#d55e00")):
            sizes = sorted({row["tokens"] for row in rows})
            for size, style in zip(sizes, STYLES.values(), strict=False):
                own = [row for row in rows if (row["dtype"], row["tokens"]) == (dtype, size)]
                if own:
                    _curves(axes[:, column], own, colour, style, f"{dtype}, {size:,} tokens")
        _landmarks(axes[1, column], max(row["block"] for row in rows))
        axes[0, column].set_title(NAMES[result["version"]], loc="left", fontweight="bold")
        for axis in axes[:, column]:
            axis.set_yscale("log")
            axis.grid(True, axis="y", lw=0.3)
        axes[0, column].legend(fontsize=8, loc="center", bbox_to_anchor=(0.5, 0.62), ncols=2)
        axes[1, column].legend(fontsize=8, loc="upper left")
        last = max(row["block"] for row in rows)
        axes[3, column].set_xticks([*range(0, last, max(1, round(last / 8))), last])
        axes[3, column].set_xlabel("block")
    names = (
        "1 − correlation with ltx-core\n(thick: free-running, thin: isolated)",
        "std of the video stream,\ntext as a share of it",
    )
    names += (
        "isolated: distance from float64\n(grey: ltx-core's own)",
        "free-running: distance from float64\n(grey: ltx-core's own)",
    )
    for axis, name in zip(axes[:, 0], names, strict=True):
        axis.set_ylabel(name)
    device = results[0]
    title = f"{device['device']}, MLX {device['mlx']}, torch {device['torch']}; random weights of the released shapes"
    figure.suptitle(title, fontsize=10, y=0.985)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _curves(axes: Any, rows: list[dict[str, Any]], colour: str, style: str, label: str) -> None:
    x = [row["block"] for row in rows]
    correlation, std, isolated, free = axes
    for kind, width in (("free", 1.8), ("isolated", 0.8)):
        values = [max(row[kind]["one_minus_r"], FLOOR) for row in rows]
        correlation.plot(x, values, style, color=colour, lw=width, label=label if kind == "free" else None)
    std.plot(x, [row["std"] for row in rows], style, color=colour, lw=1.2)
    std.plot(x, [row["text_share"] for row in rows], style, color=colour, lw=0.8)
    for axis, kind in ((isolated, "isolated"), (free, "free")):
        axis.plot(x, [row[kind]["torch_from_exact"] for row in rows], style, color=TORCH, lw=2.4)
        axis.plot(x, [row[kind]["ours_from_exact"] for row in rows], style, color=colour, lw=1.1)


def _landmarks(axis: Any, last: int) -> None:
    reported = {block: band for block, band in STREAM_STD.items() if block <= last}
    middle = [(low * high) ** 0.5 for low, high in reported.values()]
    ends = [[m - low for m, (low, _) in zip(middle, reported.values(), strict=True)]]
    ends.append([high - m for m, (_, high) in zip(middle, reported.values(), strict=True)])
    axis.errorbar(
        list(reported), middle, ends, fmt="D", color="black", ms=4, capsize=3, label="std reported for the released 19B"
    )
    shares = {block: share for block, share in TEXT_SHARE.items() if block <= last}
    axis.plot(list(shares), list(shares.values()), "s", color="black", ms=4, label="text share reported for the same")
