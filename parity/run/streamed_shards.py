"""What the runs of one case recorded, on disk: a shard for each page of each run, whole or not there.

A *page* is an outermost repeated part of a network: a block, a layer, a stage of a VAE (``transformer_blocks.3``). What
was recorded outside of pages has a shard of its own for each run, and is recorded again when a run goes on.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..judge.files import read_bytes, write_whole
from ..tap.trace import Call, Tensor
from .recorded import residual

At = tuple[str, int]  # a tap and the number of its call
CACHE = 2**27  # bytes of arrays that were read last: a rule asks for the same one several times


class Stored(Tensor):
    """A tensor whose values are read from a shard when they are asked for. near: what they are added to."""

    def __init__(self, shelf: Shelf, at: tuple[str, int], kind: str, shape: tuple[int, ...], dtype: str, near: Any):
        for name, value in (("shelf", shelf), ("at", at), ("kind", kind), ("shape", shape), ("near", near)):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "dtype", dtype)

    @property
    def values(self) -> np.ndarray:
        found: np.ndarray = self.shelf.values(self)  # type: ignore[attr-defined]
        return found

    def document(self) -> list[Any]:
        near = self.near.document() if self.near else None  # type: ignore[attr-defined]
        return [list(self.at), self.kind, list(self.shape), self.dtype, near]  # type: ignore[attr-defined]


@dataclass
class Page:
    """One call of a page in one run. passed: of a page that is not judged, its outputs. state: of the side's random
    numbers after it. moved: see ``Pager``. arrays: content → where it is."""

    run: str
    at: At
    calls: list[Call] = field(default_factory=list)
    events: list[tuple[str, str, int]] = field(default_factory=list)
    places: dict[str, str] = field(default_factory=dict)
    passed: dict[str, Any] | None = None
    repeats: bool = True
    state: bytes | None = None
    moved: dict[str, float] = field(default_factory=dict)
    arrays: dict[str, tuple[str, int]] = field(default_factory=dict)


@dataclass
class Shard:
    """A file that is being written. arrays: content → the shard that has it, and where."""

    file: BinaryIO
    name: str
    arrays: dict[str, tuple[str, int]]

    def add(self, values: np.ndarray) -> tuple[str, int]:
        data = np.ascontiguousarray(values)
        key = f"{data.dtype.str}{hashlib.blake2b(data.data, digest_size=16).hexdigest()}"
        if key not in self.arrays:
            self.arrays[key] = self.name, self.file.tell()
            self.file.write(data.data.cast("B") if data.size else b"")
        return self.arrays[key]


class Shelf:
    """The pages of a case, in the order in which they were finished. Only pages that are whole, of the same ``key``,
    and follow on each other are taken up again."""

    def __init__(self, folder: Path, key: str):
        self.folder, self.key = folder, key
        folder.mkdir(parents=True, exist_ok=True)
        self._pages: dict[tuple[str, At], Page] = {}
        self._cache: OrderedDict[Any, np.ndarray] = OrderedDict()
        self._cached = 0
        self._serial = 0
        self._page: Shard | None = None  # of the page that is running
        self._rest: dict[str, Shard] = {}
        while (page := self._load(self._serial)) is not None:
            self._pages[page.run, page.at] = page
            self._serial += 1
        for file in folder.iterdir():
            if not file.stem.isdigit() or int(file.stem) >= self._serial:
                file.unlink()

    def page(self, run: str, at: At) -> Page | None:
        return self._pages.get((run, at))

    # ---- writing --------------------------------------------------------------------------------------------------

    @contextmanager
    def new(self, page: Page) -> Iterator[None]:
        """While it lasts, what is stored goes to the page's shard; it is kept if nothing is raised."""
        like = self._pages.get(("reference", page.at))
        name = f"{self._serial:05d}.shard"
        with (self.folder / name).open("wb") as file:
            self._page = Shard(file, name, dict(like.arrays) if like else {})
            try:
                yield
            finally:
                page.arrays, self._page = self._page.arrays, None
        content = json.dumps(_packed(page))
        digest = self._digest(self._serial, content)
        write_whole(self.folder / f"{self._serial:05d}.json", f"{digest}\n{content}")
        self._pages[page.run, page.at] = page
        self._serial += 1

    def store(self, run: str, leaf: Any, near: Any = None) -> Any:
        """A leaf with its array on disk: in the shard of the page that is running, or of the run's rest.

        near: the reference's, beside which an oracle's is kept as a residual: see ``close_to``.
        """
        if not isinstance(leaf, Tensor) or isinstance(leaf, Stored):
            return leaf
        values = leaf.values
        if isinstance(near, Stored) and leaf.dtype == "float64":
            delta = residual(values, near.values)
            if delta is not None:
                return self._put(run, delta, leaf.dtype, near)
        return self._put(run, values, leaf.dtype, None)

    def _put(self, run: str, values: np.ndarray, dtype: str, near: Stored | None) -> Stored:
        at = (self._page or self._shard_of(run)).add(values)
        return Stored(self, at, values.dtype.str, values.shape, dtype, near)

    def _shard_of(self, run: str) -> Shard:
        """What is recorded outside of pages."""
        if run not in self._rest:
            name = f"{run.replace(' ', '-')}.rest"
            self._rest[run] = Shard((self.folder / name).open("wb"), name, {})
        return self._rest[run]

    # ---- reading --------------------------------------------------------------------------------------------------

    def values(self, tensor: Any) -> np.ndarray:
        key = (tensor.at, tensor.kind, tensor.shape, tensor.near.at if tensor.near else None)
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        for shard in (self._page, *self._rest.values()):
            if shard and shard.name == tensor.at[0]:
                shard.file.flush()
        count = int(np.prod(tensor.shape, dtype=np.int64))
        name, offset = tensor.at
        array = np.fromfile(self.folder / name, tensor.kind, count, offset=offset).reshape(tensor.shape)
        if tensor.near:
            array = tensor.near.values + array.astype(np.float64)
        array.flags.writeable = False
        self._cache[key], self._cached = array, self._cached + array.nbytes
        while self._cached > CACHE and len(self._cache) > 1:
            self._cached -= self._cache.popitem(last=False)[1].nbytes
        return array

    def _load(self, serial: int) -> Page | None:
        """The page of a number; None where there is none, or it was changed, or is of something else."""
        try:
            digest, _, content = read_bytes(self.folder / f"{serial:05d}.json").decode().partition("\n")
            return self._unpacked(json.loads(content)) if digest == self._digest(serial, content) else None
        except Exception:  # whatever is wrong with it, it is made again
            return None

    def _digest(self, serial: int, content: str) -> str:
        with (self.folder / f"{serial:05d}.shard").open("rb") as file:
            shard = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        return hashlib.sha256(f"{self.key} {serial} {shard} {content}".encode()).hexdigest()

    def _unpacked(self, found: dict[str, Any]) -> Page:
        calls = [
            Call(
                call["name"],
                call["index"],
                self._leaves(call["inputs"]),
                self._leaves(call["outputs"]),
                call["error"],
                call["sums"],
                call["sums_before"],
            )
            for call in found["calls"]
        ]
        return Page(
            found["run"],
            (found["at"][0], found["at"][1]),
            calls,
            [(side, tap, index) for side, tap, index in found["events"]],
            found["places"],
            None if found["passed"] is None else self._leaves(found["passed"]),
            found["repeats"],
            None if found["state"] is None else bytes.fromhex(found["state"]),
            found["moved"],
            {key: (name, offset) for key, (name, offset) in found["arrays"].items()},
        )

    def _leaves(self, leaves: dict[str, Any]) -> dict[str, Any]:
        return {name: self._stored(leaf["tensor"]) if isinstance(leaf, dict) else leaf for name, leaf in leaves.items()}

    def _stored(self, document: list[Any]) -> Stored:
        (name, offset), kind, shape, dtype, near = document
        return Stored(self, (name, offset), kind, tuple(shape), dtype, self._stored(near) if near else None)


def _packed(page: Page) -> dict[str, Any]:
    calls = [
        vars(call) | {"inputs": _documents(call.inputs), "outputs": _documents(call.outputs)} for call in page.calls
    ]
    state = page.state.hex() if page.state is not None else None
    passed = _documents(page.passed) if page.passed is not None else None
    return vars(page) | {"calls": calls, "state": state, "passed": passed}


def _documents(leaves: dict[str, Any]) -> dict[str, Any]:
    return {name: _document(leaf) for name, leaf in leaves.items()}


def _document(leaf: Any) -> Any:
    if isinstance(leaf, Stored):
        return {"tensor": leaf.document()}
    if leaf is None or isinstance(leaf, (bool, int, float, str)):
        return leaf
    return leaf.item() if isinstance(leaf, np.generic) else str(leaf)
