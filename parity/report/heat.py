"""Where in a tensor the error is: over the two longest axes as a heat map, and along each axis for a chart."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import numpy as np
from matplotlib import colormaps
from PIL import Image

from .axes import names
from .digest import Record
from .markup import number, place

SHADES = 24  # of a heat map, plus one for what is not a number
LONGEST = 4  # axes that are drawn


def located(row: Record, layout: str) -> dict[str, Any]:
    """The heat map and the longest axes of a row that has a profile, for ``stage.html``."""
    profile, called = row["profile"], names(layout, len(row["shape"]))
    longest = sorted(profile["axes"], key=lambda axis: -axis["size"])[:LONGEST]
    return {
        "name": place(row),
        "case": row["case"],
        "lane": row["lane"],
        "map": _map(profile["map"], row["shape"], called) if "map" in profile else None,
        "axes": [_along(axis, called[axis["axis"]]) for axis in sorted(longest, key=lambda axis: axis["axis"])],
    }


def _map(found: Record, shape: list[int], called: tuple[str, ...]) -> dict[str, str]:
    decibels = np.array([[np.nan if v is None else v for v in line] for line in found["ours"]], dtype=float)
    known = decibels[np.isfinite(decibels)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    down, across = (f"{called[axis]} ({shape[axis]})" for axis in found["axes"])
    lightest, darkest = _power(low), _power(high)
    alt = f"error of ours by {down}, downwards, and {across}, to the right: from {lightest} to {darkest} of the rms"
    title = f"{down} ↓ × {across} →"
    return {"title": title, "low": lightest, "high": darkest, "alt": alt, "png": _png(decibels, low, high)}


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


def _along(axis: Record, name: str) -> dict[str, str]:
    """Error of ours and of torch by position along one axis: the numbers of a chart, and the worst in words."""
    both = {side: [float(f"{v:.3g}") if v else None for v in axis[side]] for side in ("reference", "ours")}
    worst = max(((v, i) for i, v in enumerate(axis["ours"]) if v), default=None)
    alt = "no error of ours anywhere"
    if worst:
        alt = f"ours at most {number(worst[0])} of the rms, in bin {worst[1]} of {len(axis['ours'])}"
    data = json.dumps(both | {"size": axis["size"]}, separators=(",", ":"))
    return {"title": f"along {name} ({axis['size']})", "data": data, "alt": alt}
