"""The explanation of a run's first divergence in words: likely causes, lines of ours, commands to go on with."""

from __future__ import annotations

from typing import Any

from ..judge.place import Place

Explanation = dict[str, Any]  # ``Results.explanation``

NEEDS_TORCH = "Causes are ranked and lines are named by a run beside the reference, which needs torch and ltx-core:"


def missing(explanation: Explanation | None) -> str:
    """Why there is no explanation; empty where there is one."""
    return NEEDS_TORCH if explanation is None else explanation.get("missing", "")


def where(statement: dict[str, Any]) -> str:
    """``ltx2_mlx/file.py:first–last``."""
    last = f"–{statement['last']}" if statement["last"] > statement["first"] else ""
    return f"{statement['file']}:{statement['first']}{last}"


def lines(explanation: Explanation | None, place: Place) -> list[str]:
    """The explanation as plain text, and the commands for its place."""
    found = [text] if (text := missing(explanation)) else []
    if explanation and not text:
        found.append("looks like: " + "; ".join(explanation["signs"]))
        found.append("likely causes, each with the planted fault that is most alike:")
        for cause in explanation["causes"]:
            found.append(f"  {cause['share']:4.0%}  {cause['cause']}: {cause['meaning']}")
            found.append(f"        {cause['example']}: {cause['fault']}")
        found += [f"held          {constant}" for constant in explanation["constants"]]
        if narrowest := explanation["narrowest"]:
            found.append(f"narrowest     {where(narrowest)}")
        found += [f"statement     {where(s)}  {s['text']}" for s in explanation["statements"]]
    return [*found, *(f"{verb:13} {command}" for verb, command in place.commands.items())]
