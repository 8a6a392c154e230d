"""PyPI ``mlx-video-with-audio`` 0.1.37, a port in MLX, as a side. ``make ports`` installs it in a venv of its own."""

from __future__ import annotations

from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

from mlx_video.models.ltx.config import LTXModelConfig, LTXRopeType
from mlx_video.models.ltx.ltx import LTXModel
from mlx_video.models.ltx.transformer import Modality

from ..mlx_port import MLXPort
from ..port import NotComparableError, Part
from .mlx_video_media import COMPONENTS as MEDIA
from .mlx_video_text import COMPONENTS as TEXT


def transformer(config: dict[str, Any]) -> Any:
    """The arguments that the official config has under the same names, and those that it implies."""
    t = config["transformer"]
    if not t.get("use_audio_video_cross_attention"):
        raise NotComparableError("its command line makes video and audio together only")
    gated = t.get("apply_gated_attention", False)
    names = LTXModelConfig.__dataclass_fields__
    given = {name: value for name, value in t.items() if name in names and name != "rope_type"}
    return LTXModel(
        LTXModelConfig(
            **given | {"audio_in_channels": t["audio_out_channels"]},
            audio_caption_channels=t["caption_channels"],
            rope_type=LTXRopeType(t["rope_type"]),
            double_precision_rope=t.get("frequencies_precision") == "float64",
            adaln_embedding_coefficient=9 if gated else 6,
        )
    )


def velocity(model: Any, case: SimpleNamespace) -> Any:
    if case.perturbations is not None:
        raise NotComparableError("it has no perturbations")
    streams = []
    for stream in (case.video, case.audio):
        if stream is None or not getattr(stream, "enabled", True):
            raise NotComparableError("it is called with both streams")
        if getattr(stream, "attention_mask", None) is not None:
            raise NotComparableError("it has no strengths of self-attention")
        streams.append(
            Modality(
                latent=stream.latent,
                timesteps=stream.timesteps.reshape(stream.latent.shape[0], -1),
                positions=stream.positions,
                context=stream.context,
                context_mask=getattr(stream, "context_mask", None),
            )
        )
    return model(*streams)


RENAME = (
    (r"(timestep_embedder|caption_projection)\.linear_(\d)", r"\1.linear\2"),
    (r"to_out\.0", "to_out"),
    (r"ff\.net\.0\.proj", "ff.proj_in"),
    (r"ff\.net\.2", "ff.proj_out"),
)


class MLXVideo(MLXPort):
    name, version = "mlx-video-with-audio", version("mlx-video-with-audio")
    components = {  # noqa: RUF012
        "transformer": Part(
            transformer,
            velocity,
            RENAME,
            own=("*prompt_scale_shift_table",),
            loose=("transformer_blocks.*scale_shift_table",),  # made with six rows, whatever the model
        ),
        **TEXT,
        **MEDIA,
    }


SIDE = MLXVideo
