"""Where in a tensor the error is: along each axis as SVG, over the two longest axes as a heat map."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from math import ceil, floor, log10

import numpy as np
from matplotlib import colormaps
from PIL import Image

from .axes import names
from .digest import Record
from .figures import key
from .markup import Html, number, tag

WIDTH, HEIGHT = 280, 104
LEFT, RIGHT, TOP, BOTTOM = 44, 8, 8, 20
SHADES = 24  # of a heat map, plus one for what is not a number


def located(row: Record, layout: str, limit: int = 4) -> Html:
    """The heat map and the longest ``limit`` axes of a row that has a profile."""
    profile, called = row["profile"], names(layout, len(row["shape"]))
    axes = sorted(profile["axes"], key=lambda axis: -axis["size"])[:limit]
    pictures = [_heat_map(profile["map"], row["shape"], called)] if "map" in profile else []
    pictures += [_along(axis, called[axis["axis"]]) for axis in sorted(axes, key=lambda axis: axis["axis"])]
    return tag("div", *pictures, class_="located")


def _heat_map(found: Record, shape: list[int], called: tuple[str, ...]) -> Html:
    decibels = np.array([[np.nan if v is None else v for v in line] for line in found["ours"]], dtype=float)
    known = decibels[np.isfinite(decibels)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    down, across = (f"{called[axis]} ({shape[axis]})" for axis in found["axes"])
    text = f"error of ours by {down}, downwards, and {across}, to the right"
    lightest, darkest = _power(low), _power(high)
    picture = tag("img", src=_png(decibels, low, high), alt=f"{text}: from {lightest} to {darkest} of the rms")
    picture = Html(picture.removesuffix("</img>"))
    scale = tag("span", lightest, " ", tag("i", class_="ramp", aria_hidden="true"), " ", darkest, class_="key")
    caption = tag("figcaption", tag("b", f"{down} ↓ × {across} →"), scale)
    return tag("figure", caption, picture, class_="heat")


def _power(decibels: float) -> str:
    return f"{10 ** (decibels / 10):.0e}"


def _png(values: np.ndarray, low: float, high: float) -> str:
    """A data URI; what is not a number is transparent."""
    shade = np.nan_to_num((values - low) / ((high - low) or 1.0)) * (SHADES - 1)
    index = np.where(np.isfinite(values), np.rint(shade), SHADES).astype(np.uint8)
    image = Image.fromarray(index, "P")
    image.putpalette(
        (colormaps["viridis"](np.linspace(0, 1, SHADES))[:, :3] * 255).astype(np.uint8).tobytes() + b"\0\0\0"
    )
    stream = io.BytesIO()
    image.save(stream, "PNG", transparency=SHADES, optimize=True)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def _along(axis: Record, name: str) -> Html:
    """Error of ours and of torch by position along one axis, on a log scale."""
    both = {side: [v or None for v in axis[side]] for side in ("reference", "ours")}
    known = [v for side in both.values() for v in side if v]
    legend = tag("span", key("ours", "ours"), key("torch", "torch"), class_="key")
    title = tag("figcaption", tag("b", f"along {name} ({axis['size']})"), legend)
    if not known:
        return tag("figure", title, tag("p", "no error anywhere", class_="soft"), class_="along")
    low, high = floor(log10(min(known))), ceil(log10(max(known)) + 1e-9)
    high = max(high, low + 1)

    def y(value: float) -> float:
        return round(TOP + (high - log10(value)) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)

    parts = []
    for decade in (low, high):
        parts.append(f'<path class="grid" d="M{LEFT} {y(10.0**decade)}H{WIDTH - RIGHT}"/>')
        parts.append(
            f'<text class="tick" x="{LEFT - 5}" y="{y(10.0**decade) + 3.5}" text-anchor="end">1e{decade}</text>'
        )
    for x, place, anchor in ((LEFT, "0", "start"), (WIDTH - RIGHT, str(axis["size"] - 1), "end")):
        parts.append(f'<text class="tick" x="{x}" y="{HEIGHT - 6}" text-anchor="{anchor}">{place}</text>')
    for side, style in (("reference", "torch"), ("ours", "ours")):
        parts.append(f'<g class="{style}"><path class="line" d="{_steps(both[side], y)}"/></g>')
    worst = max((v, i) for i, v in enumerate(axis["ours"]) if v is not None) if any(axis["ours"]) else (0.0, 0)
    label = f"error along {name}: ours at most {number(worst[0])} of the rms, in bin {worst[1]} of {len(axis['ours'])}"
    svg = tag("svg", Html("".join(parts)), viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=label)
    return tag("figure", title, svg, class_="along")


def _steps(values: list[float | None], y: Callable[[float], float]) -> str:
    """A stair of one tread for each bin; a bin without error has none."""
    tread = (WIDTH - LEFT - RIGHT) / len(values)
    path, before = [], None
    for i, value in enumerate(values):
        if value is not None:
            start = LEFT + i * tread
            path.append(f"{'M' if before is None else 'L'}{start:.1f} {y(value)}H{start + tread:.1f}")
        before = value
    return "".join(path)
