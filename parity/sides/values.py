"""Values that are no arrays, such as arguments and defaults, made comparable one by one."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..declare.inputs import FIXTURES
from ..declare.stages.command_line import CHECKPOINTS
from ..declare.stages.differences import ABSENT, AS_DECLARED, declared
from ..tap.side import Side

DROPPED = ("sd_ops",)  # the reference's names of keys, which ours has in the loader
LONGEST = 200  # characters of a text that is shown whole


def expanded(words: Sequence[str]) -> list[str]:
    """Words of a command line with the folder of the small checkpoints in the place of its name."""
    return [word.replace(CHECKPOINTS, str(FIXTURES)) for word in words]


def compared(side: Side, step: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Name → the value, and it again as an array, so that it makes a row. Nests are taken apart; a value that is a
    declared difference, and is as declared, says so."""
    key: Literal["reference", "ours"] = "ours" if side.key == "ours" else "reference"
    shown: dict[str, Any] = {}

    def is_array(value: Any) -> bool:
        return isinstance(value, np.ndarray) or side.is_array(value)

    for name, value in (pair for top, whole in values.items() for pair in leaves(top, whole, side)):
        difference = None if is_array(value) else declared(key, step, name, value)
        if difference:
            if ABSENT in (difference.reference, difference.ours):
                continue
            value = AS_DECLARED
        shown[name] = value
        if not is_array(value):
            shown[f"{name}.value"] = _array(value)
    return shown


def leaves(name: str, value: Any, side: Side) -> Iterator[tuple[str, Any]]:
    """The scalars, texts and arrays of a nest, by name."""
    if hasattr(value, "spatial_config"):
        yield name, tiles(value)
    elif hasattr(value, "_fields"):
        for field in value._fields:
            if field not in DROPPED:
                yield from leaves(f"{name}.{field}", getattr(value, field), side)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for f in dataclasses.fields(value):
            yield from leaves(f"{name}.{f.name}", getattr(value, f.name), side)
    elif isinstance(value, (list, tuple)):
        yield f"{name}.count", len(value)
        for index, item in enumerate(value):
            yield from leaves(f"{name}.{index}", item, side)
    elif name.rpartition(".")[2] == "tiling_config" and value is None:
        yield name, "chosen"
    else:
        yield name, value if isinstance(value, np.ndarray) or side.is_array(value) else _plain(value, side)


def tiles(config: Any) -> str:
    """A TilingConfig of either side in words."""
    space, time = config.spatial_config, config.temporal_config
    parts = [f"{space.tile_size_in_pixels} pixels over {space.tile_overlap_in_pixels}"] if space else []
    parts += [f"{time.tile_size_in_frames} frames over {time.tile_overlap_in_frames}"] if time else []
    return ", ".join(parts) or "in one piece"


def _plain(value: Any, side: Side) -> Any:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if (dtype := side.dtype_name(value)) is not None:
        return dtype
    if isinstance(value, Enum):
        return _plain(value.value, side)
    if isinstance(value, Mapping):
        return len(value)
    if isinstance(value, (str, Path)):
        text = str(value).replace(str(FIXTURES), CHECKPOINTS)
        if len(text) <= LONGEST:
            return text
        return f"{len(text)} characters, sha256 {hashlib.sha256(text.encode()).hexdigest()[:4]}"
    return getattr(value, "__name__", type(value).__name__)


def _array(value: Any) -> np.ndarray:
    """A number; or the bytes of what Python writes for a text or None, which are never none and never NaN."""
    if value is None or isinstance(value, str):
        return np.frombuffer(repr(value).encode(), np.uint8)
    return np.array(value, np.float64)
