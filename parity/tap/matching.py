"""A run of code whose arguments and results have names of their own, beside a recording of another's.

Names and recorded values meet where they can: a single array meets the single array of the other side, whatever it is
called; others by their names. Only what has the shape of what is there takes its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any

from .trace import Call, Sums, Tensor, Trace

Names = Mapping[str, Mapping[str, str]]
NONE: Mapping[str, str] = MappingProxyType({})


def matched_names(names: dict[str, str], arrays: list[str], known: Call | None) -> dict[str, str]:
    """Argument → its name in the trace: a single array has that of the recorded single array. arrays: the arguments
    that are arrays."""
    single = _single(known.inputs) if known else None
    return names | {arrays[0]: single} if single is not None and len(arrays) == 1 else names


def matched_inputs(call: Call, known: Call, single: bool = False) -> dict[str, Any]:
    """What was recorded of the inputs of a call, as far as it has the shape of what is there. single: nothing of a call
    with several arrays."""
    if single and _single(call.inputs) is None:
        return {}
    return {name: leaf for name, leaf in known.inputs.items() if _alike(leaf, call.inputs.get(name))}


def matched_outputs(call: Call, known: Call, names: Names) -> dict[str, Any]:
    """The same of its outputs, under the names that they have here. names: those of the results of some taps, as in
    ``Stage.results``."""
    named = _named(call.outputs, known.outputs, _of(call.name, names))
    return {own: known.outputs[name] for own, name in named.items() if _alike(known.outputs[name], call.outputs[own])}


def met(reference: Trace, ours: Trace, root: str, names: Names) -> tuple[Trace, Trace]:
    """The traces of a reference with names of its own and of ours, as they are judged: under the reference's names.

    Every array that the reference returns stays, and is red where ours has none or another. Of the inputs stay single
    arrays, which leaf modules are given: whatever flows on inside a module comes to one of them. Those of the component
    itself (``root``) are what the harness gave it. A call of ours stays that the reference makes as well, or makes less
    often.
    """
    taps = {tap for tap, _ in reference.calls}
    own: dict[tuple[str, int], Call] = {}
    for key, call in ours.calls.items():
        if (known := reference.calls.get(key)) is not None:
            named = _named(call.outputs, known.outputs, _of(call.name, names))
            both = {} if key[0] == root else _met_inputs(call.inputs, known.inputs)
            own[key] = replace(call, inputs=both, outputs={name: call.outputs[mine] for mine, name in named.items()})
        elif key[0] in taps:
            own[key] = call
    theirs = {
        key: replace(
            call,
            inputs=_both(call.inputs, own[key].inputs) if key in own else {},
            outputs={name: leaf for name, leaf in call.outputs.items() if isinstance(leaf, Tensor)},
        )
        for key, call in reference.calls.items()
    }
    return replace(reference, calls=theirs), replace(ours, calls=own)


def _met_inputs(own: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    single = _single(own)
    return {single: own[single]} if single is not None and single == _single(known) else {}


def comparable(reference: Trace, other: Trace, root: str) -> tuple[Trace, set[str]]:
    """What can be compared of another's trace, under the reference's names: calls that both made and that have an
    output in common, of its shape unless it is of the component itself (``root``). And the taps left out by a shape.

    The root's inputs are what the harness gave it, and are not compared.
    """
    calls: dict[tuple[str, int], Call] = {}
    shapes: set[str] = set()
    for key, call in other.calls.items():
        if (known := reference.calls.get(key)) is None:
            continue
        named = _named(call.outputs, known.outputs)
        outputs = {name: call.outputs[own] for own, name in named.items()}
        if key[0] != root:
            outputs = {name: leaf for name, leaf in outputs.items() if _alike(leaf, known.outputs[name])}
            shapes |= {key[0]} if len(outputs) < len(named) else set()
        if outputs or call.error:
            inputs = {n: leaf for n, leaf in call.inputs.items() if _alike(leaf, known.inputs.get(n))}
            calls[key] = replace(call, inputs={} if key[0] == root else inputs, outputs=outputs)
    return Trace(calls, [e for e in other.events if (e[1], e[2]) in calls], other.places, other.raised), shapes


def answering(reference: Trace, other: Trace, root: str) -> Trace:
    """Another's trace with an error on the component itself (``root``) where it is not called, or lacks an array of the
    reference's result: that is to be judged, whatever its modules do."""
    for key, known in reference.calls.items():
        if key[0] != root or other.raised is not None:
            continue
        call = other.calls.get(key, Call(*key, error="what is called returns without a call of the component itself"))
        named = _named(call.outputs, known.outputs).values()
        arrays = [name for name, leaf in known.outputs.items() if isinstance(leaf, Tensor)]
        if not call.error and (set(arrays) - set(named) or not arrays):
            there = [name for name, leaf in call.outputs.items() if isinstance(leaf, Tensor)]
            call = replace(call, error=f"it returns {_arrays(there)}, the reference {_arrays(arrays)}")
        if call.error and key not in other.calls:
            other = replace(other, events=[*other.events, ("in", *key), ("out", *key)])
        other = replace(other, calls=other.calls | {key: call})
    return other


def _arrays(names: list[str]) -> str:
    return "no array" if not names else "one array" if names == [""] else f"the arrays {', '.join(names)}"


def narrowed(trace: Trace, other: Trace) -> Trace:
    """Of a trace, the calls, inputs and outputs that another has as well: tensors alone. The sums of a call that the
    other does not have are those of the code around it: it rounds there."""
    inside, before = _sums(trace, set(other.calls))
    calls = {
        key: replace(
            trace.calls[key],
            inputs=_both(trace.calls[key].inputs, call.inputs),
            outputs=_outputs(trace.calls[key], call),
            sums=inside.get(key, trace.calls[key].sums),
            sums_before=before.get(key, trace.calls[key].sums_before),
        )
        for key, call in other.calls.items()
        if key in trace.calls
    }
    return Trace(calls, [e for e in trace.events if (e[1], e[2]) in calls], trace.places, trace.raised)


def _sums(trace: Trace, kept: set[tuple[str, int]]) -> tuple[dict[tuple[str, int], Sums], dict[tuple[str, int], Sums]]:
    """``sums`` and ``sums_before`` of the kept calls, with those of the calls within and before them that are not."""
    inside: dict[tuple[str, int], Sums] = {}
    before: dict[tuple[str, int], Sums] = {}
    around: list[Sums] = [{}]  # for each kept call that is open: the sums of those that ended in it and are not kept
    for kind, tap, index in trace.events:
        if (call := trace.calls.get((tap, index))) is None:
            continue
        if (tap, index) not in kept:
            around[-1] = _largest(around[-1], call.sums_before if kind == "in" else call.sums)
        elif kind == "in":
            before[tap, index] = _largest(around[-1], call.sums_before)
            around.append({})
        else:
            inside[tap, index] = _largest(around.pop(), call.sums)
    return inside, before


def _largest(one: Sums, other: Sums) -> Sums:
    return {name: max(one.get(name, 0), other.get(name, 0)) for name in one.keys() | other.keys()}


def _outputs(call: Call, other: Call) -> dict[str, Any]:
    return call.outputs if other.error else _both(call.outputs, other.outputs)


def _both(leaves: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
    return {name: leaf for name, leaf in leaves.items() if name in others and isinstance(leaf, Tensor)}


def _of(tap: str, names: Names) -> dict[str, str]:
    """Own name of a tap's result → the recorded one's, as far as they are declared."""
    found = next((declared for pattern, declared in names.items() if fnmatchcase(tap, pattern)), NONE)
    return {own: theirs for theirs, own in found.items()}


def _named(own: dict[str, Any], known: dict[str, Any], declared: Mapping[str, str] = NONE) -> dict[str, str]:
    """Own name of an output → the recorded one's."""
    if declared:
        return {name: theirs for name, theirs in declared.items() if name in own and theirs in known}
    arrays = [name for name, leaf in own.items() if isinstance(leaf, Tensor)]
    single = _single(known)
    if len(arrays) == 1 and single is not None:
        return {arrays[0]: single}
    return {name: name for name in arrays if isinstance(known.get(name), Tensor)}


def _single(leaves: dict[str, Any]) -> str | None:
    arrays = [name for name, leaf in leaves.items() if isinstance(leaf, Tensor)]
    return arrays[0] if len(arrays) == 1 else None


def _alike(leaf: Any, own: Any) -> bool:
    return isinstance(leaf, Tensor) and isinstance(own, Tensor) and leaf.values.shape == own.values.shape
