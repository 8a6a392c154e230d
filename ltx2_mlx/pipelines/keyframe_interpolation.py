"""Two stages in which every image is a keyframe that the video passes through, at frame 0 too."""

from __future__ import annotations

from . import stages
from .ti2vid_two_stages import TI2VidTwoStagesPipeline


class KeyframeInterpolationPipeline(TI2VidTwoStagesPipeline):
    """The pipeline of keyframes. Source: ``ltx_pipelines.keyframe_interpolation``."""

    placing = staticmethod(stages.added_as_keyframe)
