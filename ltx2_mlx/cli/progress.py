"""The progress of a run: one line for all of it, its events for programs, and a summary at the end."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TextIO

import mlx.core as mx

from ..errors import printable
from ..memory import Peaks
from .costs import DENOISING, ENOUGH, READING, Cost
from .info import gigabytes

_SILENCE = 60.0  # seconds after which a log, which has a line for each phase, gets one more
_WITH = {"encoding video": "decoding the video"}  # phases that take turns and are one to the reader


@dataclass(frozen=True)
class State:
    """The progress after one event. share: of the whole run, 0 to 1. left: seconds; None where it is not known. step:
    the seconds of one of ``total``. memory, peak: bytes. The names are those of the events for programs."""

    video: int
    videos: int
    phase: str
    done: int
    total: int | None
    share: float | None
    elapsed: float
    left: float | None
    step: float | None
    memory: int
    peak: int


@dataclass
class Video:
    """What was measured of one video. seconds: phase → its time. peak: bytes."""

    seconds: dict[str, float] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)
    peak: int = 0


class Run:
    """Turns what the pipelines report into the progress of a whole run. Call it as they call ``progress``.

    costs: the expected phases of each video. paces: those of the last run. show: gets each State. Set ``peaks`` to
    where the pipelines write theirs: they reset MLX's own counter.
    """

    def __init__(
        self,
        costs: Sequence[Mapping[str, Cost]],
        paces: Mapping[str, float],
        show: Callable[[State], None],
        clock: Callable[[], float] = time.monotonic,
    ):
        self.costs, self.paces, self.show, self.clock = costs, paces, show, clock
        self.videos, self.peaks = [Video()], Peaks()
        self.done: dict[str, float] = {}  # phase → its share that is done, of this video
        self.starts: dict[str, int] = {}  # phase → how often it has begun
        self.kinds: dict[str, tuple[float, float]] = {}  # kind → real seconds, and expected ones of the same work
        self.begun = self.last = clock()

    def next_video(self) -> None:
        self.videos.append(Video())
        mx.reset_peak_memory()
        self.done, self.starts, self.last = {}, {}, self.clock()

    @property
    def elapsed(self) -> float:
        return self.clock() - self.begun

    def __call__(self, name: str, done: int, total: int | None) -> None:
        phase, video = _WITH.get(name, name), self.videos[-1]
        if done:
            took = self._spent_on(phase)
        else:
            took = 0.0
            self._spent_on(next(reversed(video.seconds), phase))  # its rest
            self.starts[phase] = self.starts.get(phase, 0) + 1
        video.peak = max(video.peak, self.peaks.most, mx.get_peak_memory(), mx.get_active_memory())
        before = self.done.get(phase, 0.0)
        if phase == name and total:
            video.steps[phase] = total
            times = self._costs[phase].times if phase in self._costs else 1
            self.done[phase] = min(1.0, (max(self.starts.get(phase, 1), 1) - 1 + done / total) / times)
        self._measure(phase, took, self.done.get(phase, 0.0) - before)
        self.show(self._state(phase, done, total))

    def finish(self) -> Video:
        """What was measured of the video, once it is written."""
        if phase := next(reversed(self.videos[-1].seconds), None):
            self._spent_on(phase)
        return self.videos[-1]

    def _spent_on(self, phase: str) -> float:
        """Count the time since the last event to a phase, and return it."""
        now, seconds = self.clock(), self.videos[-1].seconds
        took, self.last = now - self.last, now
        seconds[phase] = seconds.get(phase, 0.0) + took
        return took

    def _measure(self, phase: str, took: float, share: float) -> None:
        """Count the time that a share of a phase took to its kind of work."""
        if (cost := self._costs.get(phase)) is not None:
            real, expected = self.kinds.get(cost.kind, (0.0, 0.0))
            self.kinds[cost.kind] = real + took, expected + share * cost.seconds

    @property
    def _costs(self) -> Mapping[str, Cost]:
        return self.costs[min(len(self.videos), len(self.costs)) - 1]

    def measured(self) -> tuple[dict[str, float], dict[str, float]]:
        """Kind of work → its real seconds, and the expected ones."""
        return {k: real for k, (real, _) in self.kinds.items()}, {k: e for k, (_, e) in self.kinds.items()}

    def left(self) -> float | None:
        """Seconds to the end of the run, from what is not done and the pace of its kind."""
        paces = {READING: 1.0, **self.paces}
        paces |= {kind: real / expected for kind, (real, expected) in self.kinds.items() if expected > 0}
        rest = [(cost, 1 - self.done.get(phase, 0.0)) for phase, cost in self._costs.items()]
        rest += [(cost, 1.0) for later in self.costs[len(self.videos) :] for cost in later.values()]
        usual = paces.get(DENOISING)  # of a kind that was never seen: as fast or slow as the transformer
        if usual is not None and self.kinds.get(DENOISING, (0.0, 1.0))[1] < ENOUGH:
            usual = None
        if usual is None and any(cost.kind not in paces for cost, share in rest if share > 0):
            return None
        return sum(cost.seconds * share * paces.get(cost.kind, usual or 0.0) for cost, share in rest)

    def _state(self, phase: str, done: int, total: int | None) -> State:
        left, elapsed, video = self.left(), self.elapsed, self.videos[-1]
        step = video.seconds[phase] / done if done and total and total > 1 else None
        share = None if left is None else elapsed / (elapsed + left) if elapsed + left > 0 else 0.0
        return State(
            len(self.videos),
            len(self.costs),
            phase,
            done,
            total,
            share,
            elapsed,
            left,
            step,
            mx.get_active_memory(),
            max(each.peak for each in self.videos),
        )


# ---- displays -----------------------------------------------------------------------------------------------------


class Display:
    """Shows nothing (``--quiet``), and is what the others are made of."""

    def show(self, state: State) -> None:
        """The progress after an event."""

    def say(self, text: str) -> None:
        """A line of its own: a note, or the summary."""

    def event(self, name: str, **values: Any) -> None:
        """Something that happened, for programs."""

    def close(self) -> None:
        """No progress follows."""


class Lines(Display):
    """Lines in a log: one when a phase ends, and one a minute."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic):
        self.stream, self.clock, self.last, self.broken = stream, clock, clock(), False

    def show(self, state: State) -> None:
        ended = state.done == state.total
        if ended or self.clock() - self.last >= _SILENCE:
            self.last = self.clock()
            self.say(_words(state))

    def say(self, text: str) -> None:
        self._write(f"{printable(text)}\n")

    def _write(self, text: str) -> None:
        """Write and flush. Where nobody reads it any more (a closed terminal, ``| head``), the work goes on."""
        if not self.broken:
            try:
                self.stream.write(text)
                self.stream.flush()
            except (OSError, ValueError):
                self.broken = True


class OneLine(Lines):
    """A line of a terminal, written over and over."""

    def show(self, state: State) -> None:
        columns = shutil.get_terminal_size().columns - 1
        bar = ""
        if state.share is not None:
            full = int(state.share * 12)
            bar = f"[{'#' * full}{'.' * (12 - full)}] "
        self._write(f"\r{printable(bar + _words(state))[:columns]}\x1b[K")

    def say(self, text: str) -> None:
        self._write(f"\r\x1b[K{printable(text)}\n")

    def close(self) -> None:
        self._write("\r\x1b[K")


class Events(Display):
    """One JSON object a line, on stdout, for programs; what ``beside`` shows stays as it is."""

    def __init__(self, stream: TextIO, beside: Display):
        self.lines, self.beside = Lines(stream), beside

    def show(self, state: State) -> None:
        rounded = {
            name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(state).items()
        }
        self.event("progress", **rounded)
        self.beside.show(state)

    def say(self, text: str) -> None:
        self.beside.say(text)

    def event(self, name: str, **values: Any) -> None:
        self.lines._write(f"{json.dumps({'event': name, **values})}\n")

    def close(self) -> None:
        self.beside.close()


def display(quiet: bool, events: bool) -> Display:
    """What the flags ask for, on this process's streams."""
    shown: Display = Display()
    if not quiet and sys.stderr is not None:
        shown = OneLine(sys.stderr) if sys.stderr.isatty() else Lines(sys.stderr)
    return Events(sys.stdout, shown) if events and sys.stdout is not None else shown


# ---- words --------------------------------------------------------------------------------------------------------


def duration(seconds: float) -> str:
    """``4.2 s``, ``1:20 min`` or ``2:05 h``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d} min"
    return f"{minutes // 60}:{minutes % 60:02d} h"


def _words(state: State) -> str:
    parts = [f"video {state.video} of {state.videos}"] if state.videos > 1 else []
    counted = f" {state.done} of {state.total}" if state.total and state.total > 1 else ""
    parts.append(f"{state.phase}{counted}")
    if state.step is not None:
        parts.append(f"{duration(state.step)} each")
    if state.share is not None and state.left is not None:
        parts.append(f"{state.share:.0%}, {duration(state.left)} left")
    parts.append(f"{gigabytes(state.memory)} now, {gigabytes(state.peak)} at peak")
    return " | ".join(parts)


def summary(path: object, seed: int, size: str, video: Video) -> list[str]:
    """The lines at the end of a video. size: of the video and of its file, in words."""
    lines = [f"{path}: {size}, seed {seed}, in {duration(sum(video.seconds.values()))}"]
    width = max(map(len, video.seconds), default=0)
    for phase, seconds in video.seconds.items():
        steps = video.steps.get(phase, 1)
        each = f"  {steps} of {duration(seconds / steps)}" if steps > 1 else ""
        lines.append(f"  time    {phase:<{width}}  {duration(seconds):>10}{each}")
    return lines
