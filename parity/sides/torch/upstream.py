"""The formulas of upstream 1.2.0 where it differs from 1.0.0, each written from its description and by itself.

Float32 arithmetic is done in the wider of float32 and the arrays' dtype, so that the oracle is float64 throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from ..values import compared
from .components import Torch
from .loops import _listed, _Network, stand_in

Size = Sequence[int]  # batch, channels, frames, height and width of a latent


def _wide(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


# ---- ancestral steps ----------------------------------------------------------------------------------------------


def ancestral_coefficients(sigmas: torch.Tensor, index: int, eta: float, like: torch.Tensor) -> torch.Tensor:
    """(a, r, c), in the dtype of float32 arithmetic: with x = (1 − s)·x₀ + s·ε at every sigma s, the step goes down to
    d, shrinks the signal's 1 − d to 1 − σ', and adds noise so that the two noises come to σ'²."""
    sigma, after = (sigmas[i].to(_wide(like).dtype) for i in (index, index + 1))
    down = after * (1 + (after / sigma - 1) * eta)
    shrink = (1 - after) / (1 - down)
    return torch.stack([shrink, down / sigma, (after**2 - down**2 * shrink**2).clamp(min=0).sqrt()])


def ancestral_step(
    sample: torch.Tensor,
    denoised: torch.Tensor,
    noise: torch.Tensor,
    sigmas: torch.Tensor,
    index: int,
    eta: float,
    s_noise: float = 1.0,
) -> torch.Tensor:
    shrink, keep, fresh = ancestral_coefficients(sigmas, index, eta, sample)
    x, x0, epsilon = _wide(sample), _wide(denoised), noise.to(_wide(sample).dtype)
    stepped: torch.Tensor = shrink * (x0 + keep * (x - x0)) + s_noise * fresh * epsilon
    return stepped


def euler_ancestral_denoising_loop(
    sigmas: torch.Tensor, video: Any, audio: Any, targets: tuple[torch.Tensor, torch.Tensor], noise: list[torch.Tensor]
) -> Any:
    """Both final latents, the calls that were made, and the draws."""
    calls: list[Any] = []
    drawn: list[Any] = []
    denoise, states = stand_in(targets, calls), [SimpleNamespace(**vars(video)), SimpleNamespace(**vars(audio))]
    for index in range(len(sigmas) - 1):
        for state, denoised in zip(states, denoise(*states, sigmas, index), strict=True):
            dtype, mask = state.latent.dtype, state.denoise_mask
            clean = (1 - mask) * _wide(state.clean_latent)
            new = mask * _wide(denoised) + clean
            if float(sigmas[index + 1]) > 0:
                drawn.append([list(state.latent.shape), dtype])
                fresh = noise[len(drawn) - 1].to(dtype)
                new = mask * ancestral_step(state.latent, new, fresh, sigmas, index, eta=1.0) + clean
            state.latent = new.to(dtype)
    return [state.latent for state in states], _listed(calls), _listed(drawn)


# ---- positions and conditions -------------------------------------------------------------------------------------


def _grid(size: Size, fps: float, factor: int = 1) -> np.ndarray:
    """``(B, 3, T, 2)`` float32: [start, end) of each cell of a video in seconds and pixels."""
    batch, _, frames, height, width = size
    cells = np.stack(np.meshgrid(*map(np.arange, (frames, height, width)), indexing="ij")).reshape(3, -1, 1)
    bounds = (cells + np.array([0, 1])) * np.array([8, 32 * factor, 32 * factor]).reshape(3, 1, 1)
    bounds[0] = np.maximum(bounds[0] - 7, 0)  # the first cell stands for one frame
    bounds = bounds.astype(np.float32)
    bounds[0] /= np.float32(fps)
    return np.broadcast_to(bounds, (batch, *bounds.shape)).copy()


def video_positions(size: Size, fps: float, dtype: torch.dtype) -> torch.Tensor:
    return torch.from_numpy(_grid(size, fps))


def _tokens(latent: torch.Tensor) -> torch.Tensor:
    return latent.flatten(2).transpose(1, 2)


def _marks(size: Size, more: int) -> torch.Tensor:
    """1 for each token of the first latent frame alone; ``more`` tokens come after the video's."""
    batch, _, frames, height, width = size
    marks = torch.zeros(batch, frames * height * width + more, 1)
    marks[:, : height * width] = 1
    return marks


def _joined(state: Any, latent: torch.Tensor, positions: np.ndarray, strength: float, size: Size) -> dict[str, Any]:
    tokens = _tokens(latent)
    mask = torch.full((*tokens.shape[:2], 1), 1 - strength, dtype=latent.dtype).float()
    return {
        "latent": torch.cat([state.latent, torch.zeros_like(tokens)], 1),
        "clean_latent": torch.cat([state.clean_latent, tokens], 1),
        "denoise_mask": torch.cat([state.denoise_mask, mask], 1),
        "positions": torch.cat([state.positions, torch.from_numpy(positions)], 2),
        "keyframes_mask": _marks(size, tokens.shape[1]),
    }


def with_keyframe(
    state: Any, latent: torch.Tensor, frame_idx: int, strength: float, size: Size, fps: float
) -> dict[str, Any]:
    """A condition of one image spans [t, t + 1) wherever it is; a clip's cells span eight frames, but at frame 0."""
    frames = latent.shape[2]
    positions = _grid((*size[:2], frames, *latent.shape[3:]), fps)
    spans = [(max(8 * i - 7, 0), 8 * i + 1) if frame_idx == 0 else (8 * i, 8 * i + 8) for i in range(frames)]
    spans = [(0, 1)] if frames == 1 else spans
    times = (np.array(spans) + frame_idx).astype(np.float32) / np.float32(fps)
    positions[:, 0] = np.repeat(times, latent.shape[3] * latent.shape[4], axis=0)
    return _joined(state, latent, positions, strength, size)


def with_reference(
    state: Any, latent: torch.Tensor, factor: int, strength: float, size: Size, fps: float
) -> dict[str, Any]:
    positions = _grid((*size[:2], *latent.shape[2:]), fps, factor)
    return _joined(state, latent, positions, strength, size)


def with_replaced(state: Any, latent: torch.Tensor, latent_idx: int, strength: float, size: Size) -> dict[str, Any]:
    """The condition is in the clean latent and the mask; the latent, positions and marks stay."""
    cells = size[3] * size[4]
    at = slice(latent_idx * cells, (latent_idx + latent.shape[2]) * cells)
    clean, mask = state.clean_latent.clone(), state.denoise_mask.clone()
    clean[:, at], mask[:, at] = _tokens(latent), 1 - strength
    fields = {"latent": state.latent, "clean_latent": clean, "denoise_mask": mask, "positions": state.positions}
    return {**fields, "keyframes_mask": _marks(size, 0)}


# ---- noise, guidance, frozen streams ------------------------------------------------------------------------------


def noise_interpolated(noise: torch.Tensor, state: Any, scale: float) -> torch.Tensor:
    x, clean, mask = _wide(state.latent), _wide(state.clean_latent), state.denoise_mask
    noised = (1 - scale) * x + scale * noise.to(x.dtype)
    mixed: torch.Tensor = ((1 - mask) * clean + mask * noised).to(state.latent.dtype)
    return mixed


def guidance_in_float32(scales: dict[str, float], cond: torch.Tensor, **others: torch.Tensor) -> torch.Tensor:
    c, text, perturbed, modality = (
        _wide(x) for x in (cond, *(others[f"uncond_{n}"] for n in ("text", "perturbed", "modality")))
    )
    guided = c + (scales.get("cfg_scale", 1) - 1) * (c - text) + scales.get("stg_scale", 0) * (c - perturbed)
    guided = guided + (scales.get("modality_scale", 1) - 1) * (c - modality)
    share = scales.get("rescale_scale", 0)
    return (guided * (share * c.std() / guided.std() + 1 - share)).to(cond.dtype)


def frozen_stream(
    sigmas: torch.Tensor,
    video: Any,
    audio: Any,
    v_context: torch.Tensor,
    a_context: torch.Tensor,
    marks: torch.Tensor,
) -> Any:
    """Predictions of a network that adds up what it is told, of audio at σ = 0 and a video with marked tokens."""
    network = _Network()

    def told(
        state: Any, context: torch.Tensor, sigma: torch.Tensor, marks: torch.Tensor | None = None
    ) -> SimpleNamespace:
        batch = len(state.latent)
        return SimpleNamespace(
            latent=state.latent,
            sigma=sigma.expand(batch).float(),
            timesteps=state.denoise_mask * sigma,
            positions=state.positions,
            context=context,
            enabled=True,
            context_mask=None,
            attention_mask=None,
            keyframes_mask=marks,
        )

    results = [
        network(told(video, v_context, sigma, marks), told(audio, a_context, torch.zeros(())), None)
        for sigma in sigmas[:-1]
    ]
    return results, _listed(network.calls)


# ---- what a version and a behaviour choose ------------------------------------------------------------------------


def _behaviour(version: str, asked: str | None) -> str:
    return asked or ("upstream" if _at_least(version, 2, 5) else "1.0.0")


def _at_least(version: str, *numbers: int) -> bool:
    major, minor = (int(number) for number in version.split("-")[0].split(".")[:2])
    return (major, minor) >= numbers


def of_version(version: str, behaviour: str | None) -> dict[str, Any]:
    late, block = _at_least(version, 2, 4), 28 if _at_least(version, 2, 3) else 29
    labels = ("has_subtitles", "has_blurbox", "transition from black", "transition to black", "speech_ending_short")
    return compared(
        Torch(),
        "",
        {
            "behaviour": _behaviour(version, behaviour),
            "timing": _behaviour(version, behaviour),
            "steps": 30 if _at_least(version, 2, 3) else 40,
            "video_blocks": [block],
            "audio_blocks": [block],
            "image_crf": 18 if late else 33,
            "avoided": "".join(f"{label}, " for label in labels) if late else "",
            "our own text": True,
        },
    )


_PLAIN, _SECOND_ORDER = "euler_denoising_loop", "res2s_audio_video_denoising_loop"
_GUIDED = ("ti2vid_one_stage", "ti2vid_two_stages", "ti2vid_two_stages_hq", "keyframe_interpolation", "a2vid_two_stage")


def wired(recipe: str, version: str, behaviour: str | None, seed: int) -> dict[str, Any]:
    """What each stage of a pipeline is told, and whose audio is decoded: the rules in words, stage by stage."""
    name, found = _behaviour(version, behaviour), dict[str, Any]()
    for number in range(1, 2 if recipe in ("ti2vid_one_stage", "retake") else 3):
        told: dict[str, Any] = {"loop": _SECOND_ORDER if recipe == "ti2vid_two_stages_hq" else _PLAIN}
        if recipe == "ti2vid_two_stages_hq":
            told |= {"step_seed": seed + number * 20000, "substep_seed": seed + number * 20000 + 10000}
        if (recipe, number) == ("distilled", 1) and _at_least(version, 2, 5):
            told |= {"loop": "euler_ancestral_denoising_loop", "seed": seed + 10000}
        told |= {"noise": name, "video": name, "marks": True, "video_sigma": None, "audio_sigma": None}
        if number == 1 and recipe in (*_GUIDED, "retake"):
            told["guidance"] = name
        if recipe in ("a2vid_two_stage", "retake") and name == "upstream":
            told["audio_sigma"] = 0.0  # it is given, and stays
        found |= {f"{number}.{part}": value for part, value in told.items()}
    if recipe == "a2vid_two_stage":
        found["audio"] = None  # that of the file
    elif recipe in ("ti2vid_one_stage", "retake") or (name == "upstream" and recipe.startswith("ti2vid_two_stages")):
        found["audio"] = 1
    else:
        found["audio"] = 2
    return compared(Torch(), "", found)
