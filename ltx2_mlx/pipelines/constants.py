"""Schedules and defaults of the released models. Source: ``ltx_pipelines.utils.constants``."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ..diffusion.guiders import MultiModalGuiderParams
from ..diffusion.schedulers import DISTILLED_SIGMA_VALUES, STAGE_2_DISTILLED_SIGMA_VALUES
from ..loading.checkpoint import CheckpointPath, read_checkpoint

__all__ = ["DISTILLED_SIGMA_VALUES", "STAGE_2_DISTILLED_SIGMA_VALUES"]

VIDEO_LATENT_CHANNELS = 128


@dataclass(frozen=True)
class PipelineParams:
    """Defaults of the command line: sizes in pixels of a first stage, frames a second, and guidance."""

    seed: int = 10
    stage_1_height: int = 512
    stage_1_width: int = 768
    num_frames: int = 121
    frame_rate: float = 24.0
    num_inference_steps: int = 40
    video_guider_params: MultiModalGuiderParams = field(
        default_factory=lambda: MultiModalGuiderParams(3.0, 1.0, [29], 0.7, 3.0)
    )
    audio_guider_params: MultiModalGuiderParams = field(
        default_factory=lambda: MultiModalGuiderParams(7.0, 1.0, [29], 0.7, 3.0)
    )

    @property
    def stage_2_height(self) -> int:
        return 2 * self.stage_1_height

    @property
    def stage_2_width(self) -> int:
        return 2 * self.stage_1_width


LTX_2_PARAMS = PipelineParams()
LTX_2_3_PARAMS = replace(
    LTX_2_PARAMS,
    num_inference_steps=30,
    video_guider_params=replace(LTX_2_PARAMS.video_guider_params, stg_blocks=[28]),
    audio_guider_params=replace(LTX_2_PARAMS.audio_guider_params, stg_blocks=[28]),
)
LTX_2_3_HQ_PARAMS = PipelineParams(
    stage_1_height=544,
    stage_1_width=960,
    num_inference_steps=15,
    video_guider_params=MultiModalGuiderParams(3.0, 0.0, [], 0.45, 3.0),
    audio_guider_params=MultiModalGuiderParams(7.0, 0.0, [], 1.0, 3.0),
)


def detect_params(checkpoint_path: CheckpointPath) -> PipelineParams:
    """The defaults of the checkpoint's ``model_version``. Raises CheckpointError where it cannot be read."""
    return params_of(read_checkpoint(checkpoint_path).version)


def params_of(version: str) -> PipelineParams:
    return LTX_2_3_PARAMS if version.startswith("2.3") else LTX_2_PARAMS


# Our own text, not the reference's: what a video should avoid.
DEFAULT_NEGATIVE_PROMPT = (
    "low quality, blurred, out of focus, grainy, noisy, overexposed, too dark, washed out, banding, flicker, jitter, "
    "warped faces and hands, extra fingers, morphing objects, text, watermark, subtitles, logo, jump cut, "
    "frozen frame, distorted sound, hiss, clipping, echo, speech out of step with the lips"
)
