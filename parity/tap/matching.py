"""A run of code whose arguments and results have names of their own, beside a recording of another's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .session import Session
from .trace import Call, Tensor, Trace


class MatchingSession(Session):
    """Names and recorded values meet where they can: a single array meets the single array of the other side, whatever
    it is called; others by their names. Only what has the shape of what is there takes its place."""

    def names(self, call: Call, arguments: dict[str, Any]) -> dict[str, str]:
        names = super().names(call, arguments)
        known = self.source.calls.get((call.name, call.index)) if self.source else None
        arrays = [key for key, value in arguments.items() if self.fw.is_array(value)]
        if known and len(arrays) == 1 and (name := _single(known.inputs)):
            names[arrays[0]] = name
        return names

    def known_inputs(self, call: Call, known: Call) -> dict[str, Any]:
        return {name: leaf for name, leaf in known.inputs.items() if _alike(leaf, call.inputs.get(name))}

    def known_outputs(self, call: Call, known: Call) -> dict[str, Any]:
        named = _named(call.outputs, known.outputs)
        return {
            own: known.outputs[name] for own, name in named.items() if _alike(known.outputs[name], call.outputs[own])
        }


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


def narrowed(trace: Trace, other: Trace) -> Trace:
    """Of a trace, the calls, inputs and outputs that another has as well: tensors alone."""
    calls = {
        key: replace(
            trace.calls[key],
            inputs=_both(trace.calls[key].inputs, call.inputs),
            outputs=_outputs(trace.calls[key], call),
        )
        for key, call in other.calls.items()
        if key in trace.calls
    }
    return Trace(calls, [e for e in trace.events if (e[1], e[2]) in calls], trace.places, trace.raised)


def _outputs(call: Call, other: Call) -> dict[str, Any]:
    return call.outputs if other.error else _both(call.outputs, other.outputs)


def _both(leaves: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
    return {name: leaf for name, leaf in leaves.items() if name in others and isinstance(leaf, Tensor)}


def _named(own: dict[str, Any], known: dict[str, Any]) -> dict[str, str]:
    """Own name of an output → the recorded one's."""
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
