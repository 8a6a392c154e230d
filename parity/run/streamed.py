"""The live source for what is larger than memory: each run of a case goes page by page, and leaves its record on disk.

The runs are those of ``live``, in its order: the reference (and again), its oracle, ours; running free where lane C is
wanted. In each, a layer's weights are in memory only while it computes, and what was recorded of a page goes to a shard
(``streamed_shards``). A page that is finished is not run again: its outputs are handed on.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ltx2_mlx.loading.checkpoint import CheckpointPath

from ..declare.model import Case, Stage
from ..sides.loading import files_of, read
from ..sides.mlx import keep_little
from ..sides.pair import Pair
from ..tap.binding import Binder
from ..tap.execute import execute
from ..tap.nest import axis_moved, flatten, graft
from ..tap.session import Session
from ..tap.side import PROBE, Side
from ..tap.trace import Call, Trace
from .live import Runner, equal
from .recorded import Recorded, Recording
from .replay import run_tapped
from .streamed_shards import At, Page, Shelf
from .streaming import Streaming


def page_of(tap: str) -> str:
    """The outermost repeated part that a tap is in: its name up to its first number; "" outside of all."""
    parts = tap.split(".")
    number = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    return "" if number is None else ".".join(parts[: number + 1])


@dataclass
class PagedTrace(Trace):
    """passed: the outputs of the pages that are not judged."""

    passed: dict[At, dict[str, Any]] = field(default_factory=dict)


def passed_in(trace: Trace) -> dict[At, dict[str, Any]]:
    return trace.passed if isinstance(trace, PagedTrace) else {}


def _matches(tap: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(tap, pattern) for pattern in patterns)


def made(
    fw: Side,
    leaves: dict[str, Any],
    arguments: Mapping[str, Any],
    channels_last: bool,
    own: Mapping[str, Any] = MappingProxyType({}),
) -> Any:
    """The output of a page from its leaves: an array, or its first arguments with other arrays in them. own: the
    leaves in the dtypes that this run has; without them it is that of the page's first array."""
    leaves = {name: leaf for name, leaf in leaves.items() if not name.startswith(PROBE)}
    leaves = axis_moved(leaves, 1, -1) if channels_last else leaves
    if leaves.keys() != {""}:
        count = len({name.partition(".")[0] for name in leaves})
        return graft(tuple(arguments.values())[:count], "", fw, leaves)
    first = next((value.dtype for value in arguments.values() if fw.is_array(value)), None)
    return fw.from_numpy(leaves[""].values, fw.dtype(own[""].dtype) if own else first)


# ---- sessions --------------------------------------------------------------------------------------------------------


class PagedSession(Session):
    """A session that keeps what it records on a shelf, page by page. again: whether each page is run twice to see that
    the reference repeats itself."""

    def __init__(self, shelf: Shelf, streaming: Streaming, run: str, fw: Side, *args: Any, **kwargs: Any):
        super().__init__(fw, *args, **kwargs)
        self.shelf, self.streaming, self.run = shelf, streaming, run
        self.repeats = True
        self.trace = PagedTrace()
        self.passed = self.trace.passed
        self.moved: dict[str, float] = {}
        self.ended: Callable[[str], None] = lambda page: None
        self.holding: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext  # around a page that is twice
        self._muted = self._repeating = False

    def call(
        self,
        tap: str,
        original: Callable[..., Any],
        binder: Binder,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        wide: bool = False,
        injected: bool = False,
        channels_last: bool = False,
    ) -> Any:
        if self._repeating:
            return self._within(tap, lambda: original(*args, **kwargs))
        seen = not self.kept or _matches(tap, self.kept)
        if self._muted or page_of(tap) != tap or not seen:
            if self._muted and not injected:
                self._counts[tap] += 1
                return self._within(tap, lambda: original(*args, **kwargs))
            return super().call(tap, original, binder, args, kwargs, wide, injected, channels_last)
        at = (tap, self._counts[tap])
        last = channels_last or tap in self.channels_last
        if (page := self.shelf.page(self.run, at)) is not None:
            return self._skipped(page, binder.bind(args, kwargs).arguments, last)
        if not self._chosen(tap) and self.source and _matches(tap, self.only):
            self._counts[tap] += 1
            return made(self.fw, passed_in(self.source)[at], binder.bind(args, kwargs).arguments, last)
        self.streaming.require()
        page, calls, events = Page(self.run, at), len(self.trace.calls), len(self.trace.events)
        with self.shelf.new(page):
            if self._chosen(tap):
                with self.holding():
                    output = self._recorded(page, tap, original, binder, args, kwargs, channels_last)
            else:
                output = self._unjudged(page, tap, original, args, kwargs, last)
            page.calls = list(self.trace.calls.values())[calls:]
            page.events = self.trace.events[events:]
            page.places = {name: place for name, place in self.trace.places.items() if page_of(name) == tap}
            page.state = self.fw.random_state()
            page.moved = {k: v for k, v in self.moved.items() if k.startswith(f"{tap}.")}
        self.ended(tap)
        return output

    def _recorded(
        self,
        page: Page,
        tap: str,
        original: Callable[..., Any],
        binder: Binder,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        channels_last: bool,
    ) -> Any:
        state = self.fw.random_state()
        output = super().call(tap, original, binder, args, kwargs, channels_last=channels_last)
        if self.run == "reference":
            after = self.fw.random_state()
            self.fw.set_random_state(state)
            self._repeating = True
            again = self._within(tap, lambda: original(*args, **kwargs))
            self._repeating = False
            self.fw.set_random_state(after)
            page.repeats = equal(flatten(output, "", self.fw, {}), flatten(again, "", self.fw, {}))
            self.repeats &= page.repeats
        return output

    def _unjudged(
        self,
        page: Page,
        tap: str,
        original: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        channels_last: bool,
    ) -> Any:
        self._counts[tap] += 1
        self._muted = True
        try:
            output = self._within(tap, lambda: original(*args, **kwargs))
        finally:
            self._muted = False
        leaves = flatten(output, "", self.fw, {})
        leaves = axis_moved(leaves, -1, 1) if channels_last else leaves
        page.passed = self.passed[page.at] = {name: self.shelf.store(self.run, leaf) for name, leaf in leaves.items()}
        return output

    def _skipped(self, page: Page, arguments: Mapping[str, Any], channels_last: bool) -> Any:
        """The output of a page that was run before; its record goes into the trace."""
        tap, index = page.at
        self._counts[tap] = index + 1
        for call in page.calls:
            self.trace.calls[call.name, call.index] = call
            self._counts[call.name] = max(self._counts[call.name], call.index + 1)
        self.trace.events += page.events
        self.trace.places |= page.places
        self.repeats &= page.repeats
        self.moved |= page.moved
        if page.state is not None:
            self.fw.set_random_state(page.state)
        own = page.passed if page.passed is not None else self.trace.calls[page.at].outputs
        if page.passed is not None:
            self.passed[page.at] = page.passed
        handed = own
        if self.source and _matches(tap, self.only):
            handed = self.source.calls[page.at].outputs if page.passed is None else passed_in(self.source)[page.at]
        return made(self.fw, handed, arguments, channels_last, own)

    def count(self, primitive: str, terms: int) -> None:
        if not (self._repeating or self._muted):  # else they would be noted as sums of what is around the page
            super().count(primitive, terms)

    def finished(self, call: Call) -> None:
        near = self.source.calls.get((call.name, call.index)) if self.source and "oracle" in self.run else None
        for side in ("inputs", "outputs"):
            theirs = getattr(near, side) if near else {}
            own = getattr(call, side).items()
            setattr(call, side, {name: self.shelf.store(self.run, leaf, theirs.get(name)) for name, leaf in own})

    def _chosen(self, page: str) -> bool:
        return self.streaming.blocks is None or int(page.rpartition(".")[2]) in self.streaming.blocks


class _Walk(PagedSession):
    """Runs what is outside of pages once more, on what the pages of the reference gave; nothing is recorded."""

    def call(
        self,
        tap: str,
        original: Callable[..., Any],
        binder: Binder,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        wide: bool = False,
        injected: bool = False,
        channels_last: bool = False,
    ) -> Any:
        page = self.shelf.page("reference", (tap, self._counts[tap]))
        self._counts[tap] += 1
        if page is None:
            return self._within(tap, lambda: original(*args, **kwargs))
        if page.state is not None:
            self.fw.set_random_state(page.state)
        own = next(call.outputs for call in page.calls if (call.name, call.index) == page.at) if page.calls else {}
        leaves = page.passed if page.passed is not None else own
        arguments = binder.bind(args, kwargs).arguments
        return made(self.fw, leaves, arguments, channels_last or tap in self.channels_last, leaves)


# ---- the runner ------------------------------------------------------------------------------------------------------


class Late(Mapping[str, Any]):
    """Components of ours by name, loaded when one is asked for."""

    def __init__(self, names: Iterable[str], load: Callable[[], dict[str, Any]]):
        self._names, self._make = tuple(names), load
        self._loaded: dict[str, Any] = {}

    def load(self) -> None:
        self._loaded = self._loaded or self._make()

    def drop(self) -> None:
        self._loaded = {}

    def __getitem__(self, name: str) -> Any:
        self.load()
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class StreamedRunner(Runner):
    """A runner of checkpoints that are larger than memory: see the module."""

    def __init__(
        self,
        streaming: Streaming,
        files: Mapping[str, CheckpointPath] = MappingProxyType({}),
        progress: Callable[[str], None] = lambda line: None,
    ):
        super().__init__(None, progress, files)
        keep_little()
        self.streaming = streaming
        self._pagers: dict[str, Any] = {}

    def load(self, stage: Stage, config: str, dtype: str) -> Pair:
        from ..sides.torch.paging import SMALL, load_paged  # not above: as in ``live``

        paths = self.paths(stage, config)
        small = SMALL if self.streaming.small is None else self.streaming.small
        self.progress(f"{stage.name}: what is outside of its pages is read")
        fp8 = stage.quantization
        paged = {name: load_paged(name, path, read(path).config, dtype, small, fp8) for name, path in paths.items()}
        for part in paged.values():
            for pager in part.pagers:
                pager.require = self.streaming.require
        self._pagers = {name: part.pagers for name, part in paged.items()}
        reference = {name: part.reference for name, part in paged.items()}
        oracle = {name: part.oracle for name, part in paged.items()}
        ours: Any = Late(paths, lambda: self.ours(paths, dtype, quantization=fp8, paged=True))
        return Pair(stage, paths, read(paths[stage.main]).config, dtype, reference, oracle, ours)

    def matching(self, pair: Pair, glob: str) -> Iterator[tuple[str, Case, Pair]]:
        cases = pair.stage.cases(pair.config)
        first = next(iter(cases))
        for name, case in cases.items():
            if not fnmatchcase(name, self.streaming.cases or first) or not fnmatchcase(name, glob):
                continue
            shelf = Shelf(self._folder(pair, name), f"{self.streaming.key} {self.streaming.blocks}")
            session = partial(self._session, shelf, pair)
            # What ours ran before matters to its caches alone; each of those cases would be a pass over the file.
            yield name, replace(case, after=()), replace(pair, session=session)
            del session, shelf
            shutil.rmtree(self._folder(pair, name), ignore_errors=True)

    def _folder(self, pair: Pair, case: str) -> Path:
        path = files_of(pair.paths[pair.stage.main])[0]
        return self.streaming.folder / f"{pair.stage.name}.{path.stem}.{case}.{pair.dtype}"

    def _session(self, shelf: Shelf, pair: Pair, run: str, fw: Side, *args: Any, **kwargs: Any) -> PagedSession:
        session = PagedSession(shelf, self.streaming, run, fw, *args, **kwargs)
        session.ended = lambda page: self.progress(f"{pair.stage.name}: {run}: {page}")
        if not isinstance(pair.ours, Late):
            raise TypeError("ours was loaded whole, and is to be streamed")
        if fw.key == "ours":
            pair.ours.load()  # before the session patches what has been imported
        else:
            pair.ours.drop()
        if run == "reference":
            session.holding = self._pagers[pair.stage.main][0].holding
        return session

    def repeats(self, recorded: Recorded, session: Session, result: Any) -> bool:
        """Each page was run twice as it was recorded; what is around the pages is run again here."""
        session = _paged(session)
        pair, torch = recorded.pair, self.side(recorded.pair.stage)
        walk = _Walk(session.shelf, self.streaming, "again", torch, keeps="nothing")
        again = execute(torch, pair.stage, pair.reference, recorded.case, pair.dtype, pair.dtype, walk)
        return session.repeats and equal(flatten(result, "", torch, {}), flatten(again, "", torch, {}))

    def oracle(self, recorded: Recorded, session: Session) -> Trace:
        session = _paged(session)
        pair = recorded.pair
        run = partial(run_tapped, self.side(pair.stage), pair, pair.oracle, recorded, "float64", session)
        if session.run != "oracle" or pair.dtype != "float32" or recorded.case.taps:
            return run()
        pager = self._pagers[pair.stage.main][1]
        pager.moved.clear()
        session.moved = pager.moved
        with pager.moving(session):  # in the same pass: the weights are read once for both
            return run()

    def influence(self, recorded: Recorded, known: dict[str, float]) -> dict[str, float]:
        return dict(self._pagers[recorded.pair.stage.main][1].moved)

    def recording(self, stage: Stage, config: str, lanes: str, case: str = "*") -> Recording:
        """Without an inventory where only some pages are judged."""
        whole = super().recording(stage, config, lanes, case)
        return replace(whole, inventory=None) if self.streaming.blocks is not None else whole


def _paged(session: Session) -> PagedSession:
    if not isinstance(session, PagedSession):
        raise TypeError("a whole session, where a paged one is needed")
    return session
