"""What was reported of the released model, beside a run of its depth."""

from __future__ import annotations

from typing import Any

from ..declare import landmarks as reported
from .digest import Cell, Layer

_STREAM = "transformer_blocks."


def landmarks(cells: list[Cell]) -> dict[str, Any] | None:
    """For the charts of a run of the released depth: the lowest and highest std of the stream that were reported, by
    layer, and by config the text attention as a share of the stream, beside the reported share."""
    deep = [cell for cell in cells if any(layer.name == f"{_STREAM}{reported.DEPTH - 1}" for layer in cell.layers)]
    if not deep:
        return None
    return {
        "std": {f"{_STREAM}{block}": band for block, band in reported.STREAM_STD.items()},
        "share": {f"{_STREAM}{block}": share for block, share in reported.TEXT_SHARE.items()},
        "shares": {cell.config: _shares(cell.layers) for cell in deep},
    }


def _shares(layers: list[Layer]) -> list[tuple[str, float | None]]:
    """By block, the std of what text attention adds over the std of the stream before it."""
    blocks = [layer for layer in layers if layer.name.startswith(_STREAM)]
    entering = next((layer for layer in layers if layer.name == "patchify_proj"), None)
    found: list[tuple[str, float | None]] = []
    for before, layer in zip([entering, *blocks], blocks, strict=False):
        text = next((row for row in layer.rows if row["name"] == f"{layer.name}.attn2" and row["std_ref"]), None)
        stream = before.leaving["std_ref"] if before and before.leaving else None
        found.append((layer.name, float(f"{text['std_ref'] / stream:.4g}") if text and stream else None))
    return found
