"""How well the text side tells two prompts apart: their correlation at every place from Gemma to the transformer.

A video that does not follow its prompt often comes of contexts that hardly differ. Ours and the reference stand side by
side, so that what the networks do can be told from what a port does wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ltx2_mlx.text.tokenizer import LTXVGemmaTokenizer
from ltx2_mlx.weights import read_checkpoint, read_gemma

from ..ours import MLX
from ..reference import Torch
from ..tapping import Side

STYLE = {"ours": {"color": "#0072b2", "marker": "."}, "reference": {"color": "#777777", "marker": "x"}}


@dataclass(frozen=True)
class Site:
    """A place on the way, with both prompts' arrays of one side: ``(n, D)``, tokens in the order of the prompt."""

    name: str
    first: np.ndarray
    second: np.ndarray

    @property
    def correlation(self) -> float:
        """Over all channels of the tokens that both prompts have, BOS left out: it is the same in both."""
        return _pearson(self.first[1:].ravel(), self.second[1:].ravel())

    @property
    def by_token(self) -> list[float]:
        return [_pearson(a, b) for a, b in zip(self.first, self.second, strict=True)]


def _pearson(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64) - a.mean(dtype=np.float64), b.astype(np.float64) - b.mean(dtype=np.float64)
    scale = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / scale) if scale else float("nan")


@dataclass(frozen=True)
class Differentiation:
    """Side ("ours", "reference") → its sites in data order; the pieces of both prompts as far as both go."""

    sites: dict[str, list[Site]]
    pieces: list[tuple[str, str]]

    def distance(self, site: int) -> float:
        """Relative L2 distance of the two sides at a site, over both prompts."""
        ours, reference = (np.stack([s[site].first, s[site].second]) for s in self.sites.values())
        return float(np.linalg.norm(ours - reference) / np.linalg.norm(reference))


def differentiate(
    prompts: tuple[str, str],
    checkpoint: Path,
    gemma: Path,
    padding_side: str = "left",
    early_layers_only: bool = False,
    dtype: str = "float32",
    without_reference: bool = False,
) -> Differentiation:
    """Run both prompts through the text side of ours and of the reference, on the same token ids."""
    tokenizer = LTXVGemmaTokenizer(gemma, padding_side=padding_side)
    ids, mask = (np.array(part).astype(np.int64) for part in tokenizer.encode(list(prompts)))
    counts = mask.sum(axis=1)
    n = int(counts.min())
    starts = 1024 - counts if padding_side == "left" else np.zeros_like(counts)
    sides: dict[str, Side] = {"ours": MLX()} | ({} if without_reference else {"reference": Torch()})
    sites = {}
    for key, side in sides.items():
        both = zip(
            _places(side, checkpoint, gemma, ids[:1], mask[:1], padding_side, early_layers_only, dtype),
            _places(side, checkpoint, gemma, ids[1:], mask[1:], padding_side, early_layers_only, dtype),
            strict=True,
        )
        sites[key] = [
            # Connectors bring the tokens to the front. (Of tokens padded on the right they keep nothing: r is 1.)
            Site(name, *(x[start : start + n] for x, start in zip((a, b), starts if raw else (0, 0), strict=True)))
            for (name, raw, a), (_, _, b) in both
        ]
    first, second = (tokenizer.tokens(prompt)[:n] for prompt in prompts)
    return Differentiation(sites, list(zip(first, second, strict=True)))


def _places(
    side: Side, checkpoint: Path, gemma: Path, ids: np.ndarray, mask: np.ndarray, padding: str, early: bool, dtype: str
) -> Iterator[tuple[str, bool, np.ndarray]]:
    """One prompt on one side: (name, whether tokens stand where the tokenizer put them, ``(1024, D)``)."""

    def load(component: str) -> Any:
        folder = component == "gemma"
        path = gemma if folder else checkpoint
        return side.load(component, path, (read_gemma if folder else read_checkpoint)(path).config, dtype)

    def out(value: Any) -> np.ndarray:
        return side.to_numpy(value).values[0]

    ids, mask = (side.from_numpy(array, side.dtype("int64")) for array in (ids, mask))
    states = load("gemma")(input_ids=ids, attention_mask=mask)
    states = tuple(states[:1]) * len(states) if early else tuple(states)
    for i, state in enumerate(states):
        yield f"hidden state {i}", True, out(state)
    processor = load("embeddings_processor")
    features = processor.feature_extractor(states, mask, padding)
    contexts = processor.process_hidden_states(states, mask, padding)[:2]
    for name, both, raw in (("features", features, True), ("context", contexts, False)):
        for stream, value in zip(("video", "audio"), both, strict=True):
            yield f"{stream} {name}", raw, out(value)
    if not read_checkpoint(checkpoint).config["transformer"].get("caption_proj_before_connector"):
        transformer = load("transformer")
        for stream, value in zip(("", "audio_"), contexts, strict=True):
            projected = getattr(transformer, f"{stream}caption_projection")(value)
            yield f"{'audio' if stream else 'video'} projection", False, out(projected)


def show(found: Differentiation, prompts: tuple[str, str], console: Console | None = None) -> None:
    console = console or Console(width=None if Console().is_terminal else 132, highlight=False)
    compared = "reference" in found.sites
    for key, prompt in zip("AB", prompts, strict=True):
        console.print(f"{key}: {escape(prompt)}")
    table = Table(box=None)
    for column in ("place", *(f"r(A, B) {side}" for side in found.sites), *(["ours − reference"] if compared else [])):
        table.add_column(column, justify="left" if column == "place" else "right", no_wrap=True)
    for i, places in enumerate(zip(*found.sites.values(), strict=True)):
        distance = [f"{found.distance(i):.1e}"] if compared else []
        table.add_row(places[0].name, *(f"{place.correlation:.6f}" for place in places), *distance)
    console.print(table)
    names = [site.name for site in found.sites["ours"]]
    last = max(i for i, name in enumerate(names) if name.startswith("hidden"))
    chosen = [0, last, *(i for i, name in enumerate(names) if name.startswith("video"))]
    console.print("\nby token, " + " | ".join(found.sites))
    tokens = Table(box=None)
    for column in ("A", "B", *(names[i] for i in chosen)):
        tokens.add_column(column, justify="left" if column in "AB" else "right", no_wrap=True)
    by_token = {key: [sites[i].by_token for i in chosen] for key, sites in found.sites.items()}
    for t, pieces in enumerate(found.pieces):
        values = [" | ".join(f"{side[c][t]:.3f}" for side in by_token.values()) for c in range(len(chosen))]
        tokens.add_row(*map(escape, pieces), *values)
    console.print(tokens)


def draw(found: Differentiation, prompts: tuple[str, str], path: Path) -> Path:
    """Correlation by place, and by token and place for ours."""
    figure, (lines, cells) = plt.subplots(2, 1, figsize=(11, 8), layout="constrained", height_ratios=(1, 1.3))
    names = [site.name for site in found.sites["ours"]]
    for side, sites in found.sites.items():
        lines.plot([site.correlation for site in sites], label=side, lw=1, **STYLE[side])
    lines.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=7)
    lines.set_ylabel("correlation of A and B")
    lines.legend()
    lines.grid(True, axis="y", lw=0.3)
    lines.set_title("\n".join(f"{k}: {p[:100]}" for k, p in zip("AB", prompts, strict=True)), loc="left", fontsize=9)
    grid = np.array([site.by_token for site in found.sites["ours"]])
    image = cells.imshow(grid, aspect="auto", vmin=-1, vmax=1, cmap="RdBu_r", interpolation="nearest")
    cells.set_yticks(range(len(names)), names, fontsize=7)
    pieces = [f"{a} / {b}".replace("$", r"\$") for a, b in found.pieces]
    step = max(1, len(pieces) // 40)
    cells.set_xticks(range(0, len(pieces), step), pieces[::step], rotation=60, ha="right", fontsize=7)
    figure.colorbar(image, ax=cells, label="correlation by token, ours")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
