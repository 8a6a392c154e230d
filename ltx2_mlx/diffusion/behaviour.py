"""What upstream (ltx-core and ltx-pipelines 1.2.0) computes otherwise than 1.0.0, which the harness compares with.

``CHANGES`` is the table: what differs, since which release, and what proves it. A ``Behaviour`` has one value in each
of its rows, most of them a function of this file; whoever does the work calls it, and asks for no version.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Protocol

import mlx.core as mx
import numpy as np

from ..errors import InputError
from ..types import LatentState

Timing = Literal["1.0.0", "upstream"]
Predictions = Sequence[mx.array | float]


class Guider(Protocol):
    """What moves a prediction away from others: see ``guiders.MultiModalGuider``."""

    def calculate(
        self,
        cond: mx.array,
        uncond_text: mx.array | float,
        uncond_perturbed: mx.array | float,
        uncond_modality: mx.array | float,
    ) -> mx.array: ...


# ---- positions of the video's own tokens --------------------------------------------------------------------------


def rounded(positions: mx.array, dtype: mx.Dtype) -> mx.array:
    """rounded to the dtype of the latent: in bfloat16, 1/24 s becomes 0.041748 s"""
    return positions.astype(dtype)


def unrounded(positions: mx.array, dtype: mx.Dtype) -> mx.array:
    """float32, whatever the latent's dtype is"""
    return positions


# ---- the time that a keyframe of one latent frame spans -----------------------------------------------------------


def latent_frame(coords: np.ndarray) -> np.ndarray:
    """eight frames, as those of a latent frame do; one at frame 0"""
    return coords


def one_frame(coords: np.ndarray) -> np.ndarray:
    """one frame, wherever it lies"""
    coords[:, 0, :, 1] = coords[:, 0, :, 0] + 1
    return coords


# ---- noise on conditioned tokens ----------------------------------------------------------------------------------


def conditioned(latent: mx.array, tokens: mx.array) -> mx.array:
    """The latent that noise is added to is the condition itself."""
    return tokens.astype(latent.dtype)


def unconditioned(latent: mx.array, tokens: mx.array) -> mx.array:
    """The latent that noise is added to stays as it is: the condition is in the clean latent alone."""
    return latent


def weighted(noise: mx.array, state: LatentState, scale: float) -> mx.array:
    """a condition is in the latent, and noise is mixed into it: ε·(m·s) + x·(1 − m·s)"""
    latent = state.latent
    mask = state.denoise_mask * scale  # float32, and so is the mix (tap: GaussianNoiser)
    return (noise * mask + latent * (1 - mask)).astype(latent.dtype)


def interpolated(noise: mx.array, state: LatentState, scale: float) -> mx.array:
    """a condition is in the clean latent alone, to which the noised one is drawn: x ← x + s·(ε − x), c + m·(x − c)"""
    wide = [x.astype(mx.float32) for x in (state.latent, noise, state.clean_latent)]
    noised = _between(wide[0], wide[1], mx.array(scale, mx.float32))
    return _between(wide[2], noised, state.denoise_mask).astype(state.latent.dtype)


def _between(start: mx.array, end: mx.array, weight: mx.array) -> mx.array:
    """``start`` at weight 0 and ``end`` at 1, both exactly: from the nearer one, as torch.lerp does."""
    way = end - start
    return mx.where(weight < 0.5, start + weight * way, end - way * (1 - weight))


# ---- guidance -----------------------------------------------------------------------------------------------------


def in_their_dtype(guider: Guider, conditioned: mx.array, others: Predictions) -> mx.array:
    """in the dtype of the predictions"""
    return guider.calculate(conditioned, *others)


def in_float32(guider: Guider, conditioned: mx.array, others: Predictions) -> mx.array:
    """in float32, and rounded once"""
    wide = [x.astype(mx.float32) if isinstance(x, mx.array) else x for x in others]
    return guider.calculate(conditioned.astype(mx.float32), *wide).astype(conditioned.dtype)


# ---- a stream that is given and stays -----------------------------------------------------------------------------


def with_the_other(state: LatentState) -> LatentState:
    """that of the step, as of the other stream"""
    return state


def at_zero(state: LatentState) -> LatentState:
    """0: it has no noise"""
    return replace(state, sigma=0.0)


# ---- the audio of two stages with guidance in the first -----------------------------------------------------------


def second_stage(first: mx.array, second: mx.array) -> mx.array:
    """that of the second stage"""
    return second


def first_stage(first: mx.array, second: mx.array) -> mx.array:
    """that of the first stage; the second denoises it again only beside its video"""
    return first


# ---- the two behaviours -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Behaviour:
    """One value for each row of ``CHANGES``, by its name.

    audio_video_timing: the transformer's switch. start: what the latent has at conditioned tokens,
    from what it had and the condition; it goes with ``noised``.
    """

    name: str
    audio_video_timing: Timing
    positions: Callable[[mx.array, mx.Dtype], mx.array]
    keyframe_span: Callable[[np.ndarray], np.ndarray]
    start: Callable[[mx.array, mx.array], mx.array]
    noised: Callable[[mx.array, LatentState, float], mx.array]
    guided: Callable[[Guider, mx.array, Predictions], mx.array]
    frozen: Callable[[LatentState], LatentState]
    audio: Callable[[mx.array, mx.array], mx.array]


V1_0_0 = Behaviour(
    "1.0.0",
    audio_video_timing="1.0.0",
    positions=rounded,
    keyframe_span=latent_frame,
    start=conditioned,
    noised=weighted,
    guided=in_their_dtype,
    frozen=with_the_other,
    audio=second_stage,
)
UPSTREAM = Behaviour(
    "upstream",
    audio_video_timing="upstream",
    positions=unrounded,
    keyframe_span=one_frame,
    start=unconditioned,
    noised=interpolated,
    guided=in_float32,
    frozen=at_zero,
    audio=first_stage,
)
BEHAVIOURS = {behaviour.name: behaviour for behaviour in (V1_0_0, UPSTREAM)}
UPSTREAM_FROM = (2, 5)  # models of this release and later run as upstream does, where nothing else is asked for


def behaviour_of(name: str | None, release: tuple[int, ...]) -> Behaviour:
    """The behaviour of a name, or the default of a model's release. Raises InputError for a name that there is not."""
    if name is None:
        return UPSTREAM if release >= UPSTREAM_FROM else V1_0_0
    if name not in BEHAVIOURS:
        raise InputError(f"the behaviour is {name!r}, expected {' or '.join(BEHAVIOURS)}")
    return BEHAVIOURS[name]


# ---- the table ----------------------------------------------------------------------------------------------------


class Change(NamedTuple):
    """A row of the table. field: of ``Behaviour``. since: the release of ltx-core that has it first. reference: what it
    is judged by. proof: the stage and the case of the harness that judge it."""

    field: str
    what: str
    since: str
    reference: str
    proof: str


FORMULA = "the formula in float64; not proven here against upstream's code"
CHANGES = (
    Change(
        "audio_video_timing",
        "which noise levels set scale and shift in attention between video and audio; the gate is set by the other "
        "stream's in both",
        "1.1.4",
        "diffusers, with the gates given the other stream's σ",
        "transformer_25/base",
    ),
    Change("positions", "positions of the video's tokens", "1.1.3", FORMULA, "upstream/positions"),
    Change("keyframe_span", "the time that a keyframe of one image spans", "1.1.2", FORMULA, "upstream/keyframes"),
    Change("noised", "how noise meets a condition", "1.1.6", FORMULA, "upstream/noise"),
    Change("guided", "guidance is computed", "1.1.6", FORMULA, "upstream/guidance"),
    Change("frozen", "the σ of a stream that is given and stays", "1.2.0", FORMULA, "upstream/frozen"),
    Change(
        "audio",
        "the audio of ti2vid_two_stages and ti2vid_two_stages_hq",
        "1.2.0",
        "what upstream's pipelines say; not proven here",
        "upstream/choices",
    ),
)


def values_of(change: Change) -> tuple[str, str]:
    """What a row is in 1.0.0 and in upstream, in words."""
    return _in_words(getattr(V1_0_0, change.field)), _in_words(getattr(UPSTREAM, change.field))


_TIMING = {"1.0.0": "the σ of the other stream", "upstream": "the stream's own, token by token"}


def _in_words(value: Callable[..., object] | str) -> str:
    return _TIMING[value] if isinstance(value, str) else " ".join((value.__doc__ or "").split())


def table() -> str:
    """All rows as Markdown."""
    lines = ["| what | 1.0.0 | upstream | since | judged by | in the stage and case |", "|---|---|---|---|---|---|"]
    for change in CHANGES:
        cells = (change.what, *values_of(change), change.since, change.reference, f"`{change.proof}`")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
