"""How long each phase of a run takes: expected from its size, and corrected by what was measured.

An expectation is in seconds of the H100 of ``benchmarks/README.md``. A pace is how many real seconds one of them takes,
for each kind of work. It comes from this run as soon as it has done some of that kind; before that from the last run on
this device, which leaves its paces in a small file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from ..media.outputs import whole_file
from ..pipelines.stages import video_tools
from .plan import Plan

READING, DENOISING, DECODING = KINDS = ("reading", "denoising", "decoding")
_READ = 2e9  # bytes a second
_PIXEL = 25e-9  # seconds to decode a pixel and to encode it as H.264
_SECOND_OF_AUDIO = 0.1
ENOUGH = 0.1  # expected seconds of a kind of work, from which they tell its pace: less is start-up
_FILE = Path("ltx2-mlx") / "paces.json"


@dataclass(frozen=True)
class Cost:
    """The expectation for a phase. kind: one of KINDS. seconds: on the machine of the benchmarks, of all times that it
    happens."""

    kind: str
    seconds: float
    times: int = 1


def costs(plan: Plan) -> list[dict[str, Cost]]:
    """For each video of a plan, phase, by its name in the progress → its expectation. For those after the first one,
    models and contexts are there."""
    later = len(plan.requests) - 1
    return [_costs(plan, first=True), *([_costs(plan, first=False)] if later else []) * later]


def _costs(plan: Plan, *, first: bool) -> dict[str, Cost]:
    request, recipe, found = plan.request, plan.recipe, dict[str, Cost]()
    stages = {stage.name: stage for stage in plan.stages}
    if first and (prompts := stages.get("prompts")):
        found["encoding the prompts"] = Cost(READING, max(prompts.weights, prompts.reading) / _READ)
    with suppress(ValueError):
        shape = recipe.shape(request)
        denoising = recipe.denoising(request, shape)
        loads = 1 if recipe.keeps_transformer and not request.low_memory else len(denoising)
        for stage in denoising:
            if (own := stages.get(stage.name)) is not None:
                if first or request.low_memory:
                    found["loading the transformer"] = Cost(READING, loads * own.weights / _READ, loads)
                tokens = video_tools(stage.shape).target_shape.token_count()
                seconds = stage.runs * _pass(tokens, own.weights) + own.reading / _READ
                found[stage.name] = Cost(DENOISING, seconds)
        made = denoising[-1].shape
        if recipe.decodes_audio(request):
            found["decoding the audio"] = Cost(DECODING, made.frames / made.fps * _SECOND_OF_AUDIO)
        found["decoding the video"] = Cost(DECODING, made.frames * made.height * made.width * _PIXEL)
    return found


def _pass(tokens: int, weights: int) -> float:
    """Seconds of one pass: the 19B took 0.152, 0.355 and 1.955 for 1,536, 6,144 and 24,576 tokens."""
    return (0.102 + 2.98e-5 * tokens + 1.856e-9 * tokens**2) * weights / 38e9


# ---- paces --------------------------------------------------------------------------------------------------------


def paces() -> dict[str, float]:
    """The paces of the last run on this device; none where there was none, or they cannot be read."""
    with suppress(OSError, ValueError, AttributeError, TypeError):
        kept = json.loads(_file().read_text()).get(_device(), {})
        return {kind: float(kept[kind]) for kind in KINDS if kind in kept and 0 < float(kept[kind]) < 1e9}
    return {}


def remember(seconds: Mapping[str, float], expected: Mapping[str, float]) -> None:
    """Keep the paces of a run: kind → its real seconds, and those that were expected."""
    new = {kind: s / expected[kind] for kind, s in seconds.items() if s > 0 and expected.get(kind, 0) >= ENOUGH}
    if not new:
        return
    with suppress(Exception):  # a home that cannot be written to is no reason to fail
        known = {}
        with suppress(OSError, ValueError):
            known = dict(json.loads(_file().read_text()))
        _file().parent.mkdir(parents=True, exist_ok=True)
        with whole_file(_file()) as part:
            part.write_text(json.dumps({**known, _device(): paces() | new}))


def _file() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / _FILE


def _device() -> str:
    name = mx.device_info().get("device_name") if mx.default_device().type == mx.gpu else None
    return str(name or mx.default_device().type).removeprefix("DeviceType.")


def total(costs: Mapping[str, Cost], paces: Mapping[str, float]) -> float | None:
    """Seconds of all phases together; None where no pace is known for one that matters."""
    if any(cost.kind not in paces for cost in costs.values() if cost.kind != READING):
        return None
    return sum(cost.seconds * paces.get(cost.kind, 1.0) for cost in costs.values())
