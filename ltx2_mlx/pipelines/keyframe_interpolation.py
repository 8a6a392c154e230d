"""Two stages in which every image is a keyframe that the video passes through, at frame 0 too."""

from __future__ import annotations

import mlx.core as mx

from . import stages
from .ledger import ModelLedger
from .ti2vid_two_stages import TI2VidTwoStagesPipeline


class KeyframeInterpolationPipeline(TI2VidTwoStagesPipeline):
    """The pipeline of keyframes. Source: ``ltx_pipelines.keyframe_interpolation``."""

    placing = staticmethod(stages.added_as_keyframe)

    def kept_audio(self, ledger: ModelLedger, first: mx.array, second: mx.array) -> mx.array:
        """That of the second stage: upstream keeps the first's in the other pipelines of two guided stages alone."""
        return second
