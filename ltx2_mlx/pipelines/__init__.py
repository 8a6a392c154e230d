"""The pipelines from a prompt to frames and audio, one file each, named as in ``ltx_pipelines``."""

from .a2vid_two_stage import A2VidPipelineTwoStage
from .constants import DEFAULT_NEGATIVE_PROMPT, PipelineParams, detect_params
from .distilled import DistilledPipeline
from .ic_lora import ICLoraPipeline
from .keyframe_interpolation import KeyframeInterpolationPipeline
from .ledger import ModelLedger, Settings
from .retake import RetakePipeline
from .ti2vid_one_stage import TI2VidOneStagePipeline
from .ti2vid_two_stages import TI2VidTwoStagesPipeline
from .ti2vid_two_stages_hq import TI2VidTwoStagesHQPipeline

__all__ = [
    "DEFAULT_NEGATIVE_PROMPT",
    "A2VidPipelineTwoStage",
    "DistilledPipeline",
    "ICLoraPipeline",
    "KeyframeInterpolationPipeline",
    "ModelLedger",
    "PipelineParams",
    "RetakePipeline",
    "Settings",
    "TI2VidOneStagePipeline",
    "TI2VidTwoStagesHQPipeline",
    "TI2VidTwoStagesPipeline",
    "detect_params",
]
