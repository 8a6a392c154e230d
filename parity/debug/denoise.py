"""A whole denoising, step by step: how alike the latent and its denoised reading are, and what the prompt does."""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ltx2_mlx.errors import InputError

from ..declare.inputs import DISTILLED_SIGMAS
from ..declare.model import Data, Obj
from .finding import Finding, Lines, Table
from .measures import autocorrelation, correlation, distance, std, tolerance
from .subject import FRAMES, HEIGHT, WIDTH, Contexts, Subject, audio_too, contexts_of, latent, positions
from .velocity import sigmas_of

REPORTED = "reported for 19B: r(latent, denoised) 0.546, 0.687, 0.938, 0.990 at σ 1, 0.70, 0.43, 0.23"
NO_EFFECT = 1e-6  # a prompt that moves the denoised latent by less does nothing; random tiny networks: some per cent


@dataclass(frozen=True)
class Step:
    """The video's latent and denoised latent ``(1, T, C)``, and the denoised one for the other prompt."""

    sigma: float
    latent: np.ndarray
    denoised: np.ndarray
    other: np.ndarray

    @property
    def effect(self) -> float:
        """How far the other prompt moves the denoised latent, relative."""
        return distance(self.other, self.denoised)


def look(subject: Subject, args: argparse.Namespace) -> Finding:
    subject.require("transformer")
    if not audio_too(subject.config):
        raise InputError(f"{subject.checkpoint} has no audio stream, and the samplers move both")
    sigmas = args.sigmas or [*DISTILLED_SIGMAS, 0.0]
    contexts = contexts_of(subject, args.prompts)
    steps = {key: run(subject, key, sigmas, contexts)[0] for key in subject.sides}
    gaps = [distance(o.denoised, r.denoised) for o, r in zip(*steps.values(), strict=True)] if subject.compared else []
    columns = ["σ"]
    columns += [
        f"{w} {k}" for w in ("std", "std denoised", "r(latent, denoised)", "effect of the prompt") for k in steps
    ]
    rows = []
    for i, ours in enumerate(steps["ours"]):
        at = [by[i] for by in steps.values()]
        measured = [f(s) for f in (_std, _std_denoised, _likeness, _effect) for s in at]
        rows.append((f"{ours.sigma:g}", *measured, *gaps[i : i + 1]))
    names = [f"{step.sigma:g}" for step in steps["ours"]]
    table = Table(f"video ({REPORTED})", (*columns, *(["distance"] if gaps else [])), rows)
    last = steps["ours"][-1].denoised[0].T.reshape(-1, FRAMES, HEIGHT, WIDTH)
    ends = Table("the end", ("", "ours"), [("std", std(last)), ("autocorrelation", autocorrelation(last))])
    charts = [
        Lines("r of the latent and its denoised reading", "r", names, _series(steps, _likeness)),
        Lines("std of the denoised latent", "std", names, _series(steps, _std_denoised)),
        Lines("how far another prompt moves the denoised latent", "distance", names, _series(steps, _effect)),
    ]
    return Finding(_sentence(subject, steps["ours"], gaps), [table, ends], charts)


def _std(step: Step) -> float:
    return std(step.latent)


def _std_denoised(step: Step) -> float:
    return std(step.denoised)


def _likeness(step: Step) -> float:
    return correlation(step.latent, step.denoised)


def _effect(step: Step) -> float:
    return step.effect


def _series(steps: dict[str, list[Step]], of: Callable[[Step], float]) -> dict[str, list[float]]:
    return {key: [of(step) for step in by] for key, by in steps.items()}


def run(
    subject: Subject, key: str, sigmas: list[float], contexts: dict[str, Contexts]
) -> tuple[list[Step], tuple[np.ndarray, np.ndarray]]:
    """Every step of an Euler denoising with one prompt, asked for the other as well, and both final latents."""
    denoiser = subject.at(key, "X0Model")(subject.load(key, "transformer"))
    funcs = [_func(subject, key, contexts[name], denoiser) for name in "AB"]
    steps: list[Step] = []

    def denoise(video: Any, audio: Any, schedule: Any, i: int) -> Any:
        results = [func(video, audio, schedule, i) for func in funcs]
        arrays = [subject.numpy(key, x) for x in (video.latent, results[0][0], results[1][0])]
        steps.append(Step(float(schedule[i]), *arrays))
        return results[0]

    loop, stepper = subject.at(key, "euler_denoising_loop"), subject.at(key, "EulerDiffusionStep")()
    schedule = sigmas_of(subject, key, np.array(sigmas, np.float32))
    states = [_state(subject, key, audio) for audio in (False, True)]
    with contextlib.redirect_stderr(io.StringIO()):  # the reference draws a progress bar
        video, audio = loop(schedule, *states, denoise_fn=denoise, stepper=stepper)
    return steps, (subject.numpy(key, video.latent), subject.numpy(key, audio.latent))


def _func(subject: Subject, key: str, contexts: Contexts, denoiser: Any) -> Any:
    video, audio = (subject.make(key, Data(values)) for values in contexts)
    return subject.at(key, "simple_denoising_func")(video_context=video, audio_context=audio, transformer=denoiser)


def _state(subject: Subject, key: str, audio: bool) -> Any:
    values = latent(subject.config, audio)
    mask = np.ones((1, values.shape[1], 1), np.float32)
    fields = {"latent": Data(values), "denoise_mask": Data(mask, "none"), "positions": positions(audio)}
    return subject.make(key, Obj("LatentState", {**fields, "clean_latent": Data(np.zeros_like(values))}))


def _sentence(subject: Subject, ours: list[Step], gaps: list[float]) -> str:
    if max(step.effect for step in ours) < NO_EFFECT:
        return "Another prompt moves the denoised latent at no step: the text conditioning does nothing."
    if wrong := [i for i, gap in enumerate(gaps) if not gap <= tolerance(subject.dtype)]:
        at = ours[wrong[0]].sigma
        return f"The denoised latent leaves the reference at σ {at:g} (relative distance {gaps[wrong[0]]:.2g})."
    first, last = ours[0], ours[-1]
    facts = (
        f"r(latent, denoised) is {_likeness(first):.3g} at σ {first.sigma:g} and {_likeness(last):.3g} at "
        f"σ {last.sigma:g}, another prompt moves the denoised latent by {first.effect:.1%} and {last.effect:.1%}"
    )
    return f"{facts}, as in the reference (within {max(gaps):.0e})." if gaps else f"{facts}."
