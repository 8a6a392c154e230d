"""The arguments that are known to move something: found with the reference once, and kept beside this file.

What ``arguments`` finds depends on what the pipelines are given, what of them is recorded, the files, the limits and
the reference, and on nothing of ours. Where all of that is as it was, it is not found again, which takes the
reference 250 runs. ``python -m parity.run.moved`` finds everything again and writes the file.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..declare.inputs import FIXTURES, RECIPES
from ..declare.model import Data, Obj, Pipeline
from ..judge import tolerance

MOVED = Path(__file__).with_name("moved.json")
FILES = (RECIPES / "SHA256SUMS", RECIPES / "media.py")  # the checkpoints, and what makes pictures, clips and audio
REFERENCE = ("ltx-core", "ltx-pipelines")


def known(family: list[Pipeline], runs: list[dict[str, Any]]) -> frozenset[str]:
    """The names of the arguments of a class of pipelines that moved something when all was as it is now."""
    entry = json.loads(MOVED.read_text()).get(family[0].cls, {})
    return frozenset(entry["moved"]) if entry.get("key") == key(family, runs) else frozenset()


def key(family: list[Pipeline], runs: list[dict[str, Any]]) -> str:
    """Of all that decides what an argument moves. runs: the arguments of each run of each pipeline of the family."""
    given = [_plain(run) for run in runs]
    recorded = [[p.name, p.module, [repr(replace(watch, instead=None)) for watch in p.watches]] for p in family]
    limits = [tolerance.RUN, tolerance.WAVEFORM, tolerance.PIXELS, tolerance.DRAWS]
    reference = [f"{name} {version(name)}" for name in REFERENCE]
    text = json.dumps([given, recorded, limits, reference, *(file.read_text() for file in FILES)])
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    """A value as JSON has it: objects by their class, arrays by their bytes, files by their names."""
    if isinstance(value, Obj):
        return [value.cls, _plain(value.fields)]
    if isinstance(value, Data):
        digest = hashlib.sha256(value.values.tobytes()).hexdigest()
        return [str(value.values.dtype), value.values.shape, digest]
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return str(value).replace(str(FIXTURES), "") if isinstance(value, (str, Path)) else repr(value)


def main() -> None:
    from ..declare.stages import pipelines
    from .pipelines import argument_rule

    families: dict[str, list[Pipeline]] = {}
    for pipeline in pipelines().values():
        families.setdefault(pipeline.cls, []).append(pipeline)
    found = {}
    for name, family in families.items():
        rule = argument_rule(family)
        moved = [item.name.removeprefix("argument.") for item in rule.items() if item.verdict == "pass"]
        found[name] = {"key": key(family, rule.given), "moved": moved}
        print(f"{name}: {len(moved)} arguments")
    MOVED.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
