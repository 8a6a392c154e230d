"""Velocity or X0: what the transformer gives, what the denoiser makes of it, and where each reading leads.

The network is trained to give a velocity. The Euler step wants X0 = latent − σ · velocity; fed the velocity itself, it
ends in noise.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from ..declare.inputs import DISTILLED_SIGMAS
from .finding import Finding, Lines, Table
from .measures import autocorrelation, correlation, distance, std
from .subject import FRAMES, HEIGHT, WIDTH, Contexts, Subject, contexts_of, latent, transformer_case

# Reported for the 19B model: a final latent's std is about 1.27 when X0 is fed, 0.59 when the velocity is.
REPORTED = "reported for 19B: the final latent's std is about 1.27 with X0, 0.59 with the velocity"


def look(subject: Subject, args: argparse.Namespace) -> Finding:
    subject.require("transformer")
    sigmas = args.sigmas or [*DISTILLED_SIGMAS, 0.0]
    contexts = contexts_of(subject, None)["A"]
    middle = sigmas[len(sigmas) // 2]
    outputs, ends = {}, {}
    for key in subject.sides:
        model = subject.load(key, "transformer")
        denoiser = subject.at(key, "X0Model")(model)
        outputs[key] = [_call(subject, key, network, middle, contexts) for network in (model, denoiser)]
        ends[key] = {fed: _walk(subject, key, denoiser, sigmas, contexts, fed) for fed in ("as returned", "velocity")}
    x = latent(subject.config, False)
    rows, readings = [], {}
    for key, (velocity, returned) in outputs.items():
        readings[key] = (distance(returned, x - middle * velocity), distance(returned, velocity))
        rows += [(key, "velocity", std(velocity), None, None), (key, "returned", std(returned), *readings[key])]
    tables = [
        Table(f"one call at σ {middle:g}", ("side", "what", "std", "to latent − σ·velocity", "to velocity"), rows),
        Table(
            f"a whole denoising, {len(sigmas) - 1} Euler steps ({REPORTED})",
            ("side", "the step is fed", "final std", "autocorrelation"),
            [(k, fed, std(w[-1]), autocorrelation(_maps(w[-1]))) for k, by in ends.items() for fed, w in by.items()],
        ),
    ]
    tables.append(_readings(subject, sigmas, contexts, {k: by["as returned"] for k, by in ends.items()}))
    series = {f"{k}, fed {fed}": [std(x) for x in walk] for k, by in ends.items() for fed, walk in by.items()}
    chart = Lines("std of the latent along the schedule", "std", [f"{s:g}" for s in sigmas], series)
    return Finding(_sentence(*readings["ours"]), tables, [chart])


def _readings(subject: Subject, sigmas: list[float], contexts: Contexts, walks: dict[str, list[np.ndarray]]) -> Table:
    """The network's own output, by its likeness to its input where the two readings differ most."""
    rows = []
    for i, expected in (
        (0, "near 1 for a velocity, low for X0"),
        (len(sigmas) - 2, "low for a velocity, near 1 for X0"),
    ):
        found = []
        for key, walk in walks.items():
            output = _call(subject, key, subject.load(key, "transformer"), sigmas[i], contexts, walk[i])
            found.append(correlation(output, walk[i]))
        rows.append((f"σ {sigmas[i]:g}", *found, expected))
    return Table("r of the network's output and its input", ("", *walks, "a trained network's"), rows)


def _sentence(to_x0: float, to_velocity: float) -> str:
    if to_x0 < 1e-2 < to_velocity:
        found = f"X0 = latent − σ·velocity (relative distance {to_x0:.1e})"
        return f"The denoiser returns {found}, as the Euler step expects."
    if to_velocity < 1e-2:
        return (
            "The denoiser returns the velocity itself where the Euler step expects X0 = latent − σ·velocity "
            f"(relative distance to that: {to_x0:.2g}): the result is noise."
        )
    return f"The denoiser returns neither X0 nor the velocity (relative distances {to_x0:.2g} and {to_velocity:.2g})."


def _call(
    subject: Subject, key: str, network: Any, sigma: float, contexts: Contexts, video: np.ndarray | None = None
) -> np.ndarray:
    latents = None if video is None else (video, latent(subject.config, True))
    case = transformer_case(subject.config, sigma, contexts, latents)
    return subject.numpy(key, network(**subject.make(key, case.kwargs))[0])


def _walk(
    subject: Subject, key: str, denoiser: Any, sigmas: list[float], contexts: Contexts, fed: str
) -> list[np.ndarray]:
    """The video latent at every σ, when each step is fed what the denoiser returns, or the velocity."""
    x = latent(subject.config, False)
    stepper, walk = subject.at(key, "EulerDiffusionStep")(), [x]
    schedule = np.array(sigmas, np.float32)
    for i, sigma in enumerate(sigmas[:-1]):
        network = denoiser if fed == "as returned" else denoiser.velocity_model
        result = _call(subject, key, network, sigma, contexts, x)
        pair = [subject.sides[key].from_numpy(value, subject.sides[key].dtype("float32")) for value in (x, result)]
        x = subject.numpy(key, stepper.step(*pair, sigmas_of(subject, key, schedule), i))
        walk.append(x)
    return walk


def sigmas_of(subject: Subject, key: str, sigmas: np.ndarray) -> Any:
    """A schedule as the samplers of a side take it: ours in NumPy, the reference's in torch."""
    side = subject.sides[key]
    return sigmas if key == "ours" else side.from_numpy(sigmas, side.dtype("float32"))


def _maps(tokens: np.ndarray) -> np.ndarray:
    """``(1, T, C)`` → ``(C, F, H, W)``."""
    return np.reshape(tokens[0].T, (-1, FRAMES, HEIGHT, WIDTH))
