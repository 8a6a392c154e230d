"""Views of a run, each made from its results alone."""

from __future__ import annotations

import fcntl
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from html import escape
from pathlib import Path
from typing import Any

from ltx2_mlx.media.outputs import remove_remains

from ..judge.documents import FAILED, RUNNING, write_state
from ..judge.files import RunError, write_whole
from ..judge.lines import printable
from ..judge.results import read_results


def render(path: Path, every_picture: bool = False, single_file: bool = False) -> list[Path]:
    """Write report.html with its pages, junit.xml, summary.md and pictures beside a results.json (and annotate, in a
    GitHub job).

    Pictures are drawn of stages that fail, or of all. single_file: the pages in one file as well. A selftest.json
    beside it is shown as well; one that cannot be is named on stderr. Raises RunError for a file that is not a finished
    results.json.
    """
    from . import history, html, junit, plots, summary
    from .annotations import show as annotate

    document: dict[str, Any] = dict(read_results(path))
    folder = path.parent
    text = folder / "summary.md"
    write_whole(text, summary.markdown(document))
    annotate(document)
    pictures = plots.by_depth(document, folder, every_picture)
    report = html.Report(document, _score(folder / "selftest.json"), history.read(path), [p.name for p in pictures])
    pages = [html.write(report, folder)]
    pages += [html.write_single(report, folder / html.SINGLE)] if single_file else []
    return [*pages, text, junit.write(document, folder / "junit.xml"), *pictures]


def _score(path: Path) -> dict[str, Any] | None:
    """The selftest's score, if there is one."""
    from . import scores

    try:
        return scores.read(path) if path.exists() else None
    except RunError as error:
        print(f"ltx2-parity: {printable(error)}; the report does without", file=sys.stderr)
        return None


@contextmanager
def replacing(path: Path) -> Iterator[None]:
    """While a run lasts, results.json and the pages beside it say that there are no results; where it fails, they say
    why. What another run left there is gone at once. Raises RunError where nothing can be written."""
    with _alone(path):
        _say(path, RUNNING, f"the run (process {os.getpid()}) has not come to its end")
        with _told(path):
            yield


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """The folder is locked: no other run writes its results or pages into it. Raises RunError where one does."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror})") from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        who = re.search(r"process \d+", path.read_text(errors="replace")[:1000]) if path.is_file() else None
        holder = who[0] if who else "another process"
        raise RunError(f"{path}: {holder} is running into this folder; wait for it, or name another --json") from None
    except OSError:  # a file system without locks
        pass
    else:
        remove_remains(path.parent)
    try:
        yield
    finally:
        os.close(folder)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """What ends a run early is said in its results."""
    try:
        yield
    except BaseException as error:
        why = "it was interrupted" if isinstance(error, KeyboardInterrupt) else f"{type(error).__name__}: {error}"
        with suppress(RunError):  # a full disk: what was written at the start is still there
            _say(path, FAILED, why)
        raise


def _say(path: Path, state: str, why: str) -> None:
    from . import html, junit, summary

    write_state(path, state, why)
    html.remove(path.parent)
    said = f"No results: {why}"
    page = f'<!doctype html><meta charset="utf-8"><title>parity: no results</title><p>{escape(said)}</p>\n'
    write_whole(path.parent / "report.html", page)
    write_whole(path.parent / "summary.md", f"**{summary.plain(said)}**\n")
    write_whole(path.parent / "junit.xml", junit.no_results(said))
