"""A plan in words, and as an event for programs."""

from __future__ import annotations

from typing import Any

from ..config.reading import cut
from ..errors import printable
from .costs import costs, paces, total
from .info import gigabytes
from .limit import available
from .plan import Plan
from .progress import duration
from .terminal import one_line


def seconds(plan: Plan) -> float | None:
    """The time that the videos of a plan take, by the paces of the last run; None where they are not known."""
    if plan.problems or not plan.stages:
        return None
    known = paces()
    parts = [total(each, known) for each in costs(plan)]
    return None if None in parts else sum(part for part in parts if part is not None)


def show(plan: Plan) -> str:
    """The plan as text."""
    lines = [f"pipeline  {plan.request.pipeline}"]
    lines += [f"  {kind:<11}{path}  ({found})" for kind, path, found in plan.files]
    if len(plan.requests) > 1:
        lines += [f"  {'video':<11}{each.output_path}  (seed {each.seed}: {each.prompt})" for each in plan.requests]
    if plan.request.behaviour is not None:
        lines.append(f"  {'behaviour':<11}{plan.request.behaviour}")
    if plan.request.parallel is not None:
        lines.append(f"  {'parallel':<11}{plan.request.parallel}")
    if plan.recipe.guidance(plan.request):
        lines.append(f"  {'avoids':<11}{cut(plan.request.avoided, 90)}")
    if plan.stages:
        lines += ["", f"{'stage':<11}{'memory':>10}  what"]
        lines += [f"{stage.name:<11}{gigabytes(stage.memory):>10}  {stage.what}" for stage in plan.stages]
        lines.append(f"peak about {gigabytes(plan.memory)} of {gigabytes(available(plan.request))}")
        if reading := sum(stage.reading for stage in plan.stages):
            lines.append(f"reads about {gigabytes(reading)} from the files in all: --low-memory keeps no weights")
        if (time := seconds(plan)) is not None:
            lines.append(f"takes about {duration(time)}, by the last run on this device")
    if plan.remote:
        size = sum(remote.size for remote in plan.remote.values())
        lines.append(f"downloads {gigabytes(size)} first")
    if plan.notes:
        lines += ["", *(f"note: {note}" for note in plan.notes)]
    if plan.problems:
        lines += ["", f"{len(plan.problems)} problem{'s' if len(plan.problems) > 1 else ''}:"]
        lines += [f"  - {one_line(problem)}" for problem in plan.problems]
    return "\n".join(map(printable, lines))


def event(plan: Plan) -> dict[str, Any]:
    """The same for programs: the values of the event "plan"."""
    return {
        "pipeline": plan.request.pipeline,
        "videos": [{"path": str(r.output_path), "seed": r.seed, "prompt": r.prompt} for r in plan.requests],
        "stages": [{"name": stage.name, "memory": stage.memory} for stage in plan.stages],
        "downloads": {name: remote.size for name, remote in plan.remote.items()},
        "seconds": seconds(plan),
        "notes": plan.notes,
        "problems": plan.problems,
    }
