"""Curves by layer, as SVG.

Their colours are the page's (``style``), so that they follow dark mode and print. Every series differs from the others
in its marker and dash as well as in its colour.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

from ..declare import landmarks
from .digest import Cell, Layer, Record
from .markup import Html, number, tag

WIDTH, HEIGHT = 440, 236
LEFT, RIGHT, TOP, BOTTOM = 40, 8, 10, 74
ZERO = 1e-18  # smaller is drawn as zero


@dataclass(frozen=True)
class Series:
    """``values`` by layer, None where there is none. style: a class of the page's style sheet."""

    style: str
    name: str
    values: list[float | None]


def curves(cell: Cell, allowed: dict[str, float]) -> Html | None:
    """Four panels over the layers of a cell in the order of computation; None where nothing is rounded.

    allowed: by lane, the factor over the noise floor that passes.
    """
    layers = [layer for layer in cell.layers if layer.worst("A") or layer.worst("C")]
    if not any(layer.decorrelation(lane) for layer in layers for lane in "AC"):
        return None
    isolated, free = ([layer.worst(lane) for layer in layers] for lane in "AC")
    known = _reported(layers)
    panels = [
        panel(
            "1 − correlation with the reference, worst of each layer",
            layers,
            [
                _decorrelation("ours", "isolated (A)", layers, "A"),
                _decorrelation("free", "free-running (C)", layers, "C"),
            ],
        ),
        panel(
            "std of what leaves the layer",
            layers,
            [
                Series("torch", "reference", [_value(layer.leaving, "std_ref") for layer in layers]),
                Series("ours", "ours", [_value(layer.leaving, "std_mlx") for layer in layers]),
                *known,
            ],
        ),
    ]
    if known:
        panels.append(_text_share(layers))
    for title, style, worst in (("isolated (lane A)", "ours", isolated), ("free-running (lane C)", "free", free)):
        if any(worst):
            band = [(row["floor"], row["floor"] * allowed[row["lane"]]) if row else (None, None) for row in worst]
            error = Series(style, "ours", [_value(row, "rel_l2") for row in worst])
            panels.append(panel(f"relative L2 error, {title}, within what is allowed", layers, [error], band))
    return tag("div", *panels, class_="plots")


def _reported(layers: list[Layer]) -> list[Series]:
    """Lowest and highest std that were reported for the released model, beside a run of its depth."""
    if _block(landmarks.DEPTH - 1) not in {layer.name for layer in layers}:
        return []
    ends = {_block(block): band for block, band in landmarks.STREAM_STD.items()}
    columns = [[ends[layer.name][i] if layer.name in ends else None for layer in layers] for i in (0, 1)]
    names = ("reported for the released 19B, lowest", "highest")
    return [Series("known", name, column) for name, column in zip(names, columns, strict=True)]


def _text_share(layers: list[Layer]) -> Html:
    """Text attention as a share of the stream before the block, beside what was reported."""
    blocks = [layer for layer in layers if layer.name.startswith(_block(""))]
    shares: list[float | None] = []
    entering = next((layer for layer in layers if layer.name == "patchify_proj"), None)
    for before, layer in zip([entering, *blocks], blocks, strict=False):
        text = next((row for row in layer.rows if row["name"] == f"{layer.name}.attn2" and row["std_ref"]), None)
        stream = _value(before.leaving, "std_ref") if before else None
        shares.append(text["std_ref"] / stream if text and stream else None)
    known = {_block(block): share for block, share in landmarks.TEXT_SHARE.items()}
    series = [
        Series("torch", "reference", shares),
        Series("known", "reported for the released 19B", [known.get(layer.name) for layer in blocks]),
    ]
    return panel("text attention as a share of the stream", blocks, series)


def _block(number: int | str) -> str:
    return f"transformer_blocks.{number}"


def _decorrelation(style: str, name: str, layers: list[Layer], lane: str) -> Series:
    return Series(style, name, [layer.decorrelation(lane) for layer in layers])


def _value(row: Record | None, key: str) -> float | None:
    return row[key] if row else None


# ---- one panel ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scale:
    """Values on a log axis → pixels from the top. With ``zero`` the lowest decade is kept for it."""

    low: int
    high: int
    zero: bool

    @staticmethod
    def of(values: list[float]) -> Scale:
        above = [value for value in values if value > ZERO] or [1.0]
        low, high = floor(log10(min(above))), ceil(log10(max(above)) + 1e-9)
        zero = len(above) < len(values)
        return Scale(low - zero, max(high, low + 1), zero)

    def y(self, value: float) -> float:
        decades = self.low if value <= ZERO else log10(value)
        return round(TOP + (self.high - decades) / (self.high - self.low) * (HEIGHT - TOP - BOTTOM), 1)

    def ticks(self) -> list[tuple[float, str]]:
        lowest = self.low + self.zero
        step = max(1, ceil((self.high - lowest) / 5))
        found = [(10.0**d, _power(d)) for d in range(lowest, self.high + 1, step)]
        return found + ([(0.0, "0")] if self.zero else [])


def _power(decade: int) -> str:
    return f"{10.0**decade:g}" if -3 < decade < 4 else f"1e{decade}"


def panel(
    title: str,
    layers: list[Layer],
    series: list[Series],
    band: list[tuple[float | None, float | None]] | None = None,
) -> Html:
    """One log plot over layers. band: floor and what is allowed, by layer."""
    series = [one for one in series if any(value is not None for value in one.values)]
    values = [value for one in series for value in one.values if value is not None]
    values += [edge for pair in band or () for edge in pair if edge]
    scale, xs = Scale.of(values), _positions(len(layers))
    parts = [_grid(scale)]
    parts += [_band(band, scale, xs)] if band else []
    parts += [_line(one, scale, xs) for one in series]
    parts += [_failures(series, scale, xs, layers), _ticks(layers, xs)]
    label = f"{title}. " + ". ".join(_in_words(one, layers) for one in series)
    svg = tag("svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=label)
    keys = [key(one.style, one.name) for one in series]
    keys += [key("band", "torch's own error, up to the bound")] if band else []
    return tag("figure", tag("figcaption", tag("b", title), tag("span", *keys, class_="key")), svg, class_="plot")


def _positions(count: int) -> list[float]:
    room = WIDTH - LEFT - RIGHT - 16
    return [round(LEFT + 8 + (room * i / (count - 1) if count > 1 else room / 2), 1) for i in range(count)]


def _grid(scale: Scale) -> Html:
    ticks = [(scale.y(value), name) for value, name in scale.ticks()]
    lines = "".join(f"M{LEFT} {y}H{WIDTH - RIGHT}" for y, _ in ticks)
    names = "".join(f'<text x="{LEFT - 5}" y="{y + 3.5:.1f}">{name}</text>' for y, name in ticks)
    return Html(f'<path class="grid" d="{lines}"/><g class="tick" text-anchor="end">{names}</g>')


def _band(band: list[tuple[float | None, float | None]], scale: Scale, xs: list[float]) -> Html:
    known = [(x, scale.y(low), scale.y(high)) for x, (low, high) in zip(xs, band, strict=True) if low and high]
    if not known:
        return Html("")
    half = (xs[1] - xs[0]) / 2 if len(xs) > 1 else 20
    # A step for each layer: neighbouring layers have bounds of their own.
    boxes = "".join(f"M{x - half:.1f} {low}H{x + half:.1f}V{high}H{x - half:.1f}Z" for x, low, high in known)
    top = "".join(f"M{x - half:.1f} {high}H{x + half:.1f}" for x, _, high in known)
    return Html(f'<path class="band" d="{boxes}"/><path class="bound" d="{top}"/>')


def _line(series: Series, scale: Scale, xs: list[float]) -> Html:
    points = [(x, scale.y(value)) for x, value in zip(xs, series.values, strict=True) if value is not None]
    path = "M" + "L".join(f"{x} {y}" for x, y in points)
    dots = "".join(_dot(series.style, x, y) for x, y in points)
    return Html(f'<g class="{series.style}"><path class="line" d="{path}"/><path class="dot" d="{dots}"/></g>')


def _dot(style: str, x: float, y: float) -> str:
    """A disc for ours, a diamond for the free-running lane, a small square for the reference and for what is known."""
    if style == "ours":
        return f"M{x - 2.6:.1f} {y}a2.6 2.6 0 1 0 5.2 0a2.6 2.6 0 1 0-5.2 0"
    size = 3.4 if style == "free" else 4.4
    if style == "free":
        return f"M{x} {y - size:.1f}l{size} {size}l-{size} {size}l-{size}-{size}z"
    return f"M{x - size / 2:.1f} {y - size / 2:.1f}h{size}v{size}h-{size}z"


def _failures(series: list[Series], scale: Scale, xs: list[float], layers: list[Layer]) -> Html:
    """A cross where a layer does not pass."""
    crosses = []
    for one in series:
        lane = {"ours": "AB", "free": "C"}.get(one.style, "")
        for x, value, layer in zip(xs, one.values, layers, strict=True):
            failed = any(row["verdict"] != "pass" and row["lane"] in lane for row in layer.rows)
            if failed and value is not None:
                crosses.append(f"M{x - 5} {scale.y(value) - 5:.1f}l10 10m0-10l-10 10")
    return Html(f'<path class="cross" d="{"".join(crosses)}"/>' if crosses else "")


def _ticks(layers: list[Layer], xs: list[float]) -> Html:
    """Names below the axis, slanted, as many as fit; a block's number is its name."""
    names, lines, last = [], [], -99.0
    for x, layer in zip(xs, layers, strict=True):
        if x - last >= 13:
            last = x
            lines.append(f"M{x} {TOP}V{HEIGHT - BOTTOM}")
            place = f"translate({x + 3:.1f} {HEIGHT - BOTTOM + 9})rotate(-45)"
            names.append(f'<text transform="{place}">{escape(_short(layer.name))}</text>')
    return Html(f'<path class="grid" d="{"".join(lines)}"/><g class="tick" text-anchor="end">{"".join(names)}</g>')


def _short(name: str) -> str:
    *parents, last = name.split(".")
    if last.isdigit() and parents:
        name = (
            f"{parents[-1].removesuffix('_blocks').removesuffix('blocks').removesuffix('layers')[-11:]} {last}".strip()
        )
    name = name.lstrip("_").replace("_", " ")
    return name if len(name) <= 15 else f"{name[:14]}…"


def _in_words(series: Series, layers: list[Layer]) -> str:
    known = [(value, layer.name) for value, layer in zip(series.values, layers, strict=True) if value is not None]
    low, high = min(known), max(known)
    return f"{series.name}: from {number(low[0])} at {low[1]} to {number(high[0])} at {high[1]}"


def key(style: str, name: str) -> Html:
    """One entry of a legend."""
    if style == "band":
        drawn = '<path class="band" d="M0 3H22V13H0Z"/><path class="bound" d="M0 3H22"/>'
    else:
        drawn = f'<g class="{style}"><path class="line" d="M0 8H22"/><path class="dot" d="{_dot(style, 11, 8)}"/></g>'
    swatch = f'<svg viewBox="0 0 22 16" width="22" height="16" aria-hidden="true">{drawn}</svg>'
    return tag("span", Html(swatch), " ", name)
