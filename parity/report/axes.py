"""The names of a tensor's axes. Traces have the reference's layout: channels before time and space."""

from __future__ import annotations

_SEQUENCE = {1: ("element",), 2: ("row", "channel"), 3: ("sample", "token", "channel")}
_SEQUENCE |= {4: ("sample", "head", "token", "channel")}
_NAMES = {
    "sequence": _SEQUENCE,
    "video": _SEQUENCE
    | {4: ("sample", "channel", "height", "width"), 5: ("sample", "channel", "frame", "height", "width")},
    "audio": _SEQUENCE | {3: ("sample", "channel", "time"), 4: ("sample", "channel", "time", "frequency")},
}


def names(layout: str, rank: int) -> tuple[str, ...]:
    """A name for each of ``rank`` axes of a tensor in ``layout`` (``Stage.layout``); numbers for an unknown layout
    or rank, as an older results.json may have."""
    return _NAMES.get(layout, {}).get(rank) or tuple(f"axis {i}" for i in range(rank))
