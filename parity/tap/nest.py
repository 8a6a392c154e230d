"""Nests of arrays: flattened to named leaves, and put together again with recorded values in them."""

from __future__ import annotations

import dataclasses
from enum import Enum
from pathlib import PurePath
from typing import Any

import numpy as np

from .side import Side
from .trace import Tensor


def flatten(value: Any, name: str, fw: Side, into: dict[str, Any]) -> dict[str, Any]:
    """Name → Tensor or constant, for every leaf of a nest of arrays, tuples, dicts, dataclasses and enums."""
    if value is None or type(value) in (bool, int, float, str):  # most leaves that are not arrays
        into[name] = value
    elif isinstance(value, np.ndarray):
        into[name] = Tensor(value.copy(), str(value.dtype))
    elif fw.is_array(value):
        into[name] = fw.to_numpy(value)
    elif fw.is_module(value):
        pass
    elif isinstance(value, Enum):
        into[name] = value.value
    elif dataclasses.is_dataclass(value):
        for f in dataclasses.fields(value):
            flatten(getattr(value, f.name), join(name, f.name), fw, into)
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            flatten(item, join(name, str(i)), fw, into)
    elif isinstance(value, dict):
        for key, item in value.items():
            flatten(item, join(name, str(key)), fw, into)
    elif isinstance(value, slice):
        into[name] = f"{value.start}:{value.stop}:{value.step}"
    elif (dtype := fw.dtype_name(value)) is not None:
        into[name] = dtype
    elif callable(value):
        into[name] = getattr(value, "__name__", type(value).__name__)
    elif isinstance(value, (str, int, float, complex, np.generic, PurePath)):
        into[name] = value
    else:  # an object without arrays or fields
        into[name] = type(value).__name__
    return into


def graft(value: Any, name: str, fw: Side, recorded: dict[str, Any], wide: bool = False) -> Any:
    """``value`` with every array replaced by the recorded one of the same name, in the dtype it has here."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, np.ndarray) or fw.is_array(value):
        tensor = recorded.get(name)
        if not isinstance(tensor, Tensor):
            return value
        widen = wide and tensor.values.dtype.kind == "f"
        if isinstance(value, np.ndarray):
            return tensor.values.astype(np.float64 if widen else value.dtype)
        return fw.from_numpy(tensor.values, fw.dtype("float64") if widen else value.dtype)
    if fw.is_module(value):  # an MLX module is a dict as well
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        new = {
            f.name: graft(getattr(value, f.name), join(name, f.name), fw, recorded, wide)
            for f in dataclasses.fields(value)
        }
        return dataclasses.replace(value, **new)
    if isinstance(value, (list, tuple)):
        items = [graft(item, join(name, str(i)), fw, recorded, wide) for i, item in enumerate(value)]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, dict):
        return {k: graft(v, join(name, str(k)), fw, recorded, wide) for k, v in value.items()}
    return value


def join(name: str, part: str) -> str:
    return f"{name}.{part}" if name else part


def axis_moved(leaves: dict[str, Any], source: int, to: int) -> dict[str, Any]:
    """Leaves with one axis of every array of three axes or more moved: from channels-last to the reference's layout
    and back."""
    return {
        name: Tensor(np.ascontiguousarray(np.moveaxis(leaf.values, source, to)), leaf.dtype)
        if isinstance(leaf, Tensor) and leaf.values.ndim > 2
        else leaf
        for name, leaf in leaves.items()
    }
