"""The manifest of a trace, with the type of every field, and whether what it says of a shard fits the shard."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import msgspec

from ltx2_mlx.errors import LTX2Error

from ..judge.documents import Count
from ..judge.files import RunError, decode, read_bytes

SCHEMA = "ltx2-parity-trace/2"
_AGAIN = "Record it again: parity record"
_KNOWN = f"not the manifest of a trace ({SCHEMA})"
_Name = Annotated[
    str, msgspec.Meta(pattern=r"^[^/\\\x00]*[^/\\\x00.][^/\\\x00]*$", max_length=255)
]  # of a file, no path
_Sums = dict[str, Count]
_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class TraceError(LTX2Error):
    """The trace cannot be used: what was found, and what to do."""


class _Leaf(TypedDict):
    """An array (``data``, ``to`` that it is added to, or both) with dtype and shape; or else a constant ``value``."""

    dtype: NotRequired[str]
    shape: NotRequired[list[Count]]
    data: NotRequired[str]
    to: NotRequired[str]
    value: NotRequired[str | int | float | bool | None]


class _Call(TypedDict):
    """One call of a tap."""

    tap: str
    call: Count
    sums: NotRequired[_Sums]
    sums_before: NotRequired[_Sums]
    inputs: dict[str, _Leaf]
    outputs: dict[str, _Leaf]


class _Case(TypedDict):
    """One case of a cell, and its shard."""

    case: str
    dtype: Literal["float32", "bfloat16", "float16"]
    repeats: bool
    moving: dict[str, _Share]
    inputs_sha256: str
    inputs: dict[str, _Leaf]
    events: list[tuple[Literal["in", "out"], Count]]
    reference: list[_Call]
    oracle: list[_Call] | None
    free: list[_Call] | None
    shard: _Name
    sha256: str
    bytes: Count


class _Inventory(TypedDict):
    """What must be covered."""

    leaves: list[str]
    sizes: dict[str, Count]


class _Cell(TypedDict):
    """A stage on a config."""

    stage: str
    config: str
    declaration: dict[str, Any]
    components: dict[str, str]
    inventory: _Inventory | None
    cases: list[_Case]


class _Checkpoint(TypedDict):
    """A file that the trace needs."""

    name: _Name
    path: str
    sha256: str


class _Manifest(TypedDict):
    """All of it."""

    schema: str
    layout: str
    versions: dict[str, str]
    seed: Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]
    checkpoints: list[_Checkpoint]
    cells: list[_Cell]
    sha256: str


class _Head(TypedDict):
    """What every file of the harness begins with."""

    schema: str


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest, every field of its type, and every name in it known to it. Raises TraceError."""
    try:
        text = read_bytes(path)
        schema = decode(path, text, _Head, _KNOWN)["schema"]
        if schema != SCHEMA:
            raise TraceError(f"{path}: schema is {schema!r}, expected {SCHEMA!r}. {_AGAIN}")
        found = decode(path, text, _Manifest, _KNOWN)
        plain: dict[str, Any] = decode(path, text, dict[str, Any], _KNOWN)  # its numbers as they were written
    except RunError as error:
        raise TraceError(f"{error}. {_AGAIN}" if _AGAIN not in str(error) else str(error)) from None
    names = {entry["name"] for entry in found["checkpoints"]}
    for cell in found["cells"]:
        if lacking := set(cell["components"].values()) - names:
            raise TraceError(f"{path}: {cell['stage']} {cell['config']} needs {min(lacking)}, which it does not name")
    return plain


def references_problem(case: dict[str, Any], sizes: dict[str, int]) -> str:
    """What a case says of its shard and is not so; "" if nothing. sizes: of the shard's arrays, by name."""
    for leaf in _leaves(case):
        if "value" in leaf:
            continue
        keys = [leaf[key] for key in ("data", "to") if key in leaf]
        if not keys or "shape" not in leaf or "dtype" not in leaf:
            return "an array without data, shape or dtype"
        if wrong := next((key for key in keys if sizes.get(key) != prod(leaf["shape"])), None):
            return f"its shard has no array {wrong} with {prod(leaf['shape']):,} elements"
    if any(number >= len(case["reference"]) for _, number in case["events"]):
        return "an event of a call that there is not"
    return ""


def _leaves(case: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from case["inputs"].values()
    for call in (*case["reference"], *(case["oracle"] or ()), *(case["free"] or ())):
        yield from call["inputs"].values()
        yield from call["outputs"].values()
