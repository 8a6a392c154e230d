"""Schedules and defaults of the released models. Source: ``ltx_pipelines.utils.constants``."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ..diffusion.guiders import MultiModalGuiderParams
from ..diffusion.schedulers import DISTILLED_SIGMA_VALUES, STAGE_2_DISTILLED_SIGMA_VALUES
from ..loading.checkpoint import CheckpointPath, read_checkpoint, release_of
from ..media.images import DEFAULT_IMAGE_CRF

__all__ = ["DISTILLED_SIGMA_VALUES", "STAGE_2_DISTILLED_SIGMA_VALUES"]

VIDEO_LATENT_CHANNELS = 128

# Our own text, not the reference's: what a video should avoid.
DEFAULT_NEGATIVE_PROMPT = (
    "low quality, blurred, out of focus, grainy, noisy, overexposed, too dark, washed out, banding, flicker, jitter, "
    "warped faces and hands, extra fingers, morphing objects, text, watermark, subtitles, logo, jump cut, "
    "frozen frame, distorted sound, hiss, clipping, echo, speech out of step with the lips"
)
# Labels of the captions that models are trained with from 2.4 on. Upstream avoids them as well.
AVOIDED_LABELS = (
    "has_subtitles",
    "has_blurbox",
    "transition from black",
    "transition to black",
    "speech_ending_short",
)


@dataclass(frozen=True)
class PipelineParams:
    """Defaults of the command line: sizes in pixels of a first stage, frames a second, and guidance. image_crf: of
    images without one of their own."""

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
    negative_prompt: str = DEFAULT_NEGATIVE_PROMPT
    image_crf: int = DEFAULT_IMAGE_CRF

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
LTX_2_4_PARAMS = replace(
    LTX_2_3_PARAMS, negative_prompt=", ".join((*AVOIDED_LABELS, DEFAULT_NEGATIVE_PROMPT)), image_crf=18
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
    """The defaults of a ``model_version``. LTX-2.5 has those of 2.4 and later."""
    if release_of(version) >= (2, 4):
        return LTX_2_4_PARAMS
    return LTX_2_3_PARAMS if version.startswith("2.3") else LTX_2_PARAMS
