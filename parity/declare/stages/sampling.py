"""Schedules (equal to the last bit), guidance and steps, one call at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..inputs import DISTILLED_SIGMAS, normal
from ..model import Case, Counterparts, Data, Obj, Stage, Step

_GUIDERS = ("MultiModalGuider", "MultiModalGuiderParams", "MultiModalGuiderFactory.from_dict")
CLASSES = {
    "LTX2Scheduler": Counterparts(
        "ltx_core.components.schedulers:LTX2Scheduler", "ltx2_mlx.diffusion.schedulers:LTX2Scheduler"
    ),
    **{
        name: Counterparts(f"ltx_core.components.guiders:{name}", f"ltx2_mlx.diffusion.guiders:{name}")
        for name in _GUIDERS
    },
    "EulerDiffusionStep": Counterparts(
        "ltx_core.components.diffusion_steps:EulerDiffusionStep",
        "ltx2_mlx.diffusion.diffusion_steps:EulerDiffusionStep",
    ),
    "to_velocity": Counterparts("ltx_core.utils:to_velocity", "ltx2_mlx.diffusion.diffusion_steps:to_velocity"),
}


def _schedules() -> tuple[Step, ...]:
    steps = []
    for n in (1, 2, 3, 7, 8, 15, 30, 40, 41):
        if n > 1:  # the reference's one stretched step is NaN; ours refuses it
            steps.append(Step(f"ltx2.{n}", Obj("LTX2Scheduler"), {"steps": n}, "execute"))
        # Below, between and above the shift's two anchors, and on each of them.
        for size in ((1, 2, 3), (3, 12, 20), (16, 32, 48), *(((4, 16, 16), (4, 32, 32)) if n in (2, 15) else ())):
            tokens, latent = int(np.prod(size)), Data(np.zeros((1, 1, *size), dtype=np.float32))
            step = Step(f"ltx2.{n}.{tokens}", Obj("LTX2Scheduler"), {"steps": n}, "execute")
            steps += [_only(step, {"latent": latent}, {"tokens": tokens})] if n > 1 else []
        plain = {"steps": n, "stretch": False, "max_shift": 1.5, "base_shift": 0.5}
        steps.append(Step(f"ltx2.{n}.plain", Obj("LTX2Scheduler"), plain, "execute"))
    for name, settings in {
        "terminal": {"steps": 9, "terminal": 0.03},
        "terminal.0": {"steps": 5, "terminal": 0.0},
        "unshifted": {"steps": 6, "max_shift": 0.0, "base_shift": 0.0},
        "flat": {"steps": 6, "max_shift": 1.2, "base_shift": 1.2, "terminal": 0.2},
        "falling": {"steps": 6, "max_shift": 0.3, "base_shift": -0.4},
    }.items():
        steps.append(Step(f"ltx2.{name}", Obj("LTX2Scheduler"), settings, "execute"))
    return tuple(steps)


def _only(step: Step, reference: dict[str, Any], ours: dict[str, Any]) -> Step:
    return Step(step.name, step.target, step.kwargs, step.method, on_reference=reference, on_ours=ours)


def _guiders() -> tuple[Step, ...]:
    shape = (2, 9, 13)
    # A mean that is not zero tells a std from a root mean square; predictions that differ a little, as they do.
    cond = normal("guiders:cond", *shape) + np.float32(0.7)
    others = [cond + normal(f"guiders:{name}", *shape, scale=0.3) for name in ("text", "perturbed", "modality")]
    steps = []
    passes = dict(zip(("uncond_text", "uncond_perturbed", "uncond_modality"), map(Data, others), strict=True))
    for name, scales in {
        "default": {"cfg_scale": 3.0, "stg_scale": 1.0, "rescale_scale": 0.7, "modality_scale": 3.0},
        "audio": {"cfg_scale": 7.0, "stg_scale": 1.0, "rescale_scale": 1.0, "modality_scale": 3.0},
        "text": {"cfg_scale": 3.0},
        "neutral": {"cfg_scale": 1.0, "stg_scale": 0.0, "rescale_scale": 0.0, "modality_scale": 1.0},
        "zero": {"cfg_scale": 0.0, "stg_scale": 0.0, "rescale_scale": 0.4, "modality_scale": 0.0},
        "negative": {"cfg_scale": -2.0, "stg_scale": -0.5, "rescale_scale": 1.0, "modality_scale": -1.0},
        "little": {"cfg_scale": 1.125, "stg_scale": 0.0625, "rescale_scale": 0.1, "modality_scale": 0.9},
        "rescaled": {"rescale_scale": 0.5},
    }.items():
        guider = Obj("MultiModalGuider", {"params": Obj("MultiModalGuiderParams", scales)})
        steps.append(Step(f"multi.{name}", guider, {"cond": Data(cond)} | passes, "calculate", exact=False))
    for skip in (2, 0, 1, 3):
        for index in range(4):
            guider = Obj("MultiModalGuider", {"params": Obj("MultiModalGuiderParams", {"skip_step": skip})})
            name = f"skip.{index}" if skip == 2 else f"skip.of {skip}.{index}"
            steps.append(Step(name, guider, {"step": index}, "should_skip_step"))
    # Which passes are made: a scale is neutral within a billionth.
    questions = {
        "cfg_scale": ("do_unconditional_generation", (1.0, 1.0 + 1e-10, 1.0 + 1e-6, 0.0, -1.0, 2.0)),
        "stg_scale": ("do_perturbed_generation", (0.0, 1e-12, 1e-6, -0.5, 1.0)),
        "modality_scale": ("do_isolated_modality_generation", (1.0, 1.0 - 1e-10, 1.0 - 1e-6, 0.0, -1.0, 2.0)),
    }
    for field, (method, asked) in questions.items():
        for scale in asked:
            guider = Obj("MultiModalGuider", {"params": Obj("MultiModalGuiderParams", {field: scale})})
            steps.append(Step(f"asks.{field}.{scale!r}", guider, {}, method))
    bins = {k: Obj("MultiModalGuiderParams", {"cfg_scale": 1.0 + k}) for k in (0.9, 0.3, 0.6)}
    for sigma in (1.0, 0.9, 0.7, 0.6, 0.3, 0.1, 0.0):
        factory = Obj("MultiModalGuiderFactory.from_dict", {"sigma_to_params": bins})
        steps.append(Step(f"bin.{sigma:g}", factory, {"sigma": sigma}, "params"))
    return tuple(steps)


def _euler() -> tuple[Step, ...]:
    sigmas = np.array([*DISTILLED_SIGMAS, 0.0], np.float32)
    steps = []
    for index in range(len(sigmas) - 1):
        arguments = {
            "sample": Data(normal(f"euler:sample:{index}", 2, 7, 5)),
            "denoised_sample": Data(normal(f"euler:denoised:{index}", 2, 7, 5)),
            "sigmas": Data(sigmas, "none"),
            "step_index": index,
        }
        steps.append(Step(f"euler.{index}", Obj("EulerDiffusionStep"), arguments, "step", exact=False))
    return tuple(steps)


def cases(config: dict[str, Any]) -> dict[str, Case]:
    return {
        "schedules": Case(steps=_schedules(), half=False),
        "guiders": Case(steps=_guiders()),
        "euler": Case(steps=_euler()),
    }


SAMPLING = Stage(name="sampling", component=None, cases=cases, classes=CLASSES, configs=("any",))
