"""The diffusion transformer of LTX-2.5 beside diffusers' class. Once its gates of audio-video attention are timed as
upstream's (see ``parity/sides/torch/diffusers.py``) that equals upstream's to the last bit."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..model import Case, Data, Obj, Stage, section
from .transformer import CLASSES, grid, modality, seconds, skip

VIDEO, AUDIO = (3, 3, 5), 18  # latent sizes


def is_25(config: dict[str, Any]) -> bool:
    """True for a checkpoint whose transformer marks single pictures."""
    return bool(section(config, "transformer").get("use_keyframes_abs_pos_embedding"))


def _marks(tokens: int, *rows: tuple[slice, float]) -> Data:
    """``(B, T, 1)``: in every sample the first latent frame, in the last one ``rows`` as well."""
    mask = np.zeros((2, tokens, 1), np.float32)
    mask[:, : VIDEO[1] * VIDEO[2]] = 1.0
    for at, value in rows:
        mask[1, at] = value
    return Data(mask, "none")


def cases(config: dict[str, Any]) -> dict[str, Case]:
    """Timesteps differ from token to token, the first third of both streams is given, and video's sigma is not audio's:
    what is timed by another stream, by another token or by a whole sample shows."""
    video_grid = [grid(*VIDEO, fps=29.97), grid(*VIDEO, fps=50.0, first=4, corner=(3, 1))]
    audio_grid = [seconds(AUDIO), seconds(AUDIO, first=7)]
    tokens = video_grid[0].shape[1]

    def case(
        name: str,
        marks: Data | None,
        video: dict[str, Any] | None = None,
        audio: dict[str, Any] | None = None,
        perturbations: Obj | None = None,
        half: bool = False,
        grids: tuple[list[np.ndarray], list[np.ndarray]] = (video_grid, audio_grid),
    ) -> Case:
        streams = {
            "video": modality(config, False, name, [0.909375, 0.725], grids[0], keyframes_mask=marks, **(video or {})),
            "audio": modality(config, True, name, [0.421875, 0.98125], grids[1], **(audio or {})),
        }
        return Case(streams | {"perturbations": perturbations}, half=half)

    def whole(*sigmas: float) -> dict[str, Any]:
        return {"timesteps": Data(np.array(sigmas, np.float32)[:, None, None], "none")}

    def kept(name: str, text: int) -> dict[str, Any]:
        mask = np.arange(text)[None] < np.array([[text], [text - 4]])
        return {"context_mask": Data(mask.astype(np.int64), "none")}

    # A keyframe of one latent frame behind the video's own, and a frame within it that is to be generated as a slot.
    added = [np.concatenate([one, one[:, -15:]], axis=1) for one in video_grid]
    late = [grid(3, 2, 3, fps=30.0, first=70), grid(3, 2, 3, fps=23.976, first=51, corner=(20, 33))]
    both: dict[str, list[int] | None] = {"skip_video_self_attn": [1], "skip_audio_self_attn": [1]}
    cut: dict[str, list[int] | None] = {"skip_a2v_cross_attn": None, "skip_v2a_cross_attn": None}
    return {
        "base": case("base", _marks(tokens), half=True),
        "unmarked": case("base", None),
        "slots": case("slots", _marks(tokens + 15, (slice(15, 30), 0.25)), grids=(added, audio_grid)),
        "whole": case("whole", _marks(tokens), whole(0.909375, 0.725), whole(0.421875, 0.98125)),
        "text": case("text", _marks(tokens), kept("v", 13), kept("a", 9)),
        "stg": case("stg", _marks(tokens), perturbations=skip(both, both)),
        "cut": case("cut", _marks(tokens), perturbations=skip(cut, cut)),
        "late": case("late", None, grids=(late, [seconds(11, first=470), seconds(11, first=333)])),
    }


TRANSFORMER_25 = Stage(
    name="transformer_25",
    component="transformer",
    reference="diffusers",
    fits=is_25,
    cases=cases,
    classes=CLASSES,
    configs=("tiny-2.5-transformer",),
    results={"transformer_blocks.[0-9]": {"0": "0.x", "1": "1.x"}},
    defined=("*time_proj",),
    probes=("*norm", "*norm_out"),
)
