"""The diffusion transformer: every leaf module, and what happens between modules as function taps."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..inputs import DISTILLED_SIGMAS, normal, uniform
from ..model import Case, Counterparts, Data, FunctionTap, Member, Obj, Stage, section

_REF = "ltx_core.model.transformer"
_OURS, _BLOCK = "ltx2_mlx.transformer", "ltx2_mlx.block"


def _rope(name: str, **flags: Any) -> FunctionTap:
    return FunctionTap(name, Counterparts(f"{_REF}.rope:{name}", f"ltx2_mlx.nn.rope:{name}"), **flags)


def _prepare(name: str, ours: str, cls: str = "TransformerArgsPreprocessor", **flags: Any) -> FunctionTap:
    return FunctionTap(name, Counterparts(f"{_REF}.transformer_args:{cls}.{name}", f"{_OURS}:{ours}"), **flags)


def _block(name: str) -> FunctionTap:
    cls = f"BasicAVTransformerBlock.{name}"
    return FunctionTap(name, Counterparts(f"{_REF}.transformer:{cls}", f"{_BLOCK}:{cls}"))


AV = ("tiny-2.0", "tiny-2.0-interleaved", "tiny-2.3")
SPLIT = ("tiny-2.0", "tiny-2.3", "tiny-2.3-video-only")
MULTI = "MultiModalTransformerArgsPreprocessor"

FUNCTIONS = (
    # inputs of the blocks
    _prepare("_prepare_timestep", "LTXModel._prepare_timestep"),
    _prepare("_prepare_cross_attention_timestep", "LTXModel._prepare_cross_attention_timestep", MULTI, configs=AV),
    _prepare("_prepare_context", "LTXModel._prepare_context"),
    _prepare("_prepare_attention_mask", "prepare_attention_mask"),
    _prepare("_prepare_self_attention_mask", "prepare_self_attention_mask"),
    # positions to rotary tables: angles are float32 by the reference's definition, and equal
    FunctionTap(
        "precompute_freqs_cis",
        Counterparts(f"{_REF}.transformer_args:precompute_freqs_cis", f"{_OURS}:precompute_freqs_cis"),
    ),
    _rope("generate_freqs", exact=True),
    _rope("split_freqs_cis", wide=True, configs=SPLIT),
    _rope("interleaved_freqs_cis", wide=True, configs=("tiny-2.0-interleaved",)),
    # inside a block
    FunctionTap("rms_norm", Counterparts(f"{_REF}.transformer:rms_norm", f"{_BLOCK}:rms_norm")),
    _block("get_ada_values"),
    FunctionTap("get_av_ca_ada_values", _block("get_av_ca_ada_values").at, configs=AV),
    FunctionTap(
        "apply_cross_attention_adaln",
        Counterparts(f"{_REF}.transformer:apply_cross_attention_adaln", f"{_BLOCK}:apply_cross_attention_adaln"),
        configs=("tiny-2.3", "tiny-2.3-video-only"),
    ),
    FunctionTap(
        "apply_rotary_emb", Counterparts(f"{_REF}.attention:apply_rotary_emb", "ltx2_mlx.nn.attention:apply_rotary_emb")
    ),
    FunctionTap(
        "attention_function",
        Counterparts(f"{_REF}.attention:AttentionFunction.__call__", "ltx2_mlx.nn.attention:attention_function"),
    ),
    # output
    FunctionTap(
        "_process_output", Counterparts(f"{_REF}.model:LTXModel._process_output", f"{_OURS}:LTXModel._process_output")
    ),
    FunctionTap("to_denoised", Counterparts(f"{_REF}.model:to_denoised", f"{_OURS}:to_denoised")),
)

_PERTURBATIONS = ("BatchedPerturbationConfig", "PerturbationConfig", "Perturbation", "PerturbationType")
CLASSES = {
    "X0Model": Counterparts(f"{_REF}:X0Model", f"{_OURS}:X0Model"),
    "Modality": Counterparts(f"{_REF}:Modality", "ltx2_mlx.types:Modality"),
    **{
        n: Counterparts(f"ltx_core.guidance.perturbations:{n}", f"ltx2_mlx.diffusion.perturbations:{n}")
        for n in _PERTURBATIONS
    },
}


# ---- inputs -------------------------------------------------------------------------------------------------------


def grid(
    frames: int, height: int, width: int, fps: float, first: int = 0, corner: tuple[int, int] = (0, 0)
) -> np.ndarray:
    """``(3, T, 2)`` bounds of a latent's tokens in (seconds, pixels, pixels), from latent frame ``first`` and the cell
    ``corner`` on."""
    up, left = corner
    axes = np.arange(first, first + frames), np.arange(up, up + height), np.arange(left, left + width)
    f, h, w = np.meshgrid(*axes, indexing="ij")
    start = np.stack([f, h, w]).reshape(3, -1).astype(np.float32)
    bounds = np.stack([start, start + 1], axis=-1) * np.array([[[8]], [[32]], [[32]]], np.float32)
    bounds[0] = np.maximum(bounds[0] - 7, 0) / np.float32(fps)
    return bounds


def seconds(frames: int, first: int = 0) -> np.ndarray:
    """``(1, T, 2)`` bounds of audio latent frames in seconds."""
    edges = np.maximum(np.arange(first, first + frames + 1, dtype=np.float32) * 4 - 3, 0) * np.float32(0.01)
    bounds: np.ndarray = np.stack([edges[:-1], edges[1:]], axis=-1)
    return bounds[None]


def modality(
    config: dict[str, Any], audio: bool, name: str, sigma: list[float], positions: list[np.ndarray], **extra: Any
) -> Obj:
    """One stream: random latents and text, timesteps that vary from token to token unless given. No two samples of a
    batch share anything: ``positions`` has one array for each."""
    t = config["transformer"]
    stream = "audio_" if audio else ""
    batch, tokens = len(sigma), positions[0].shape[-2]
    width = t[f"{stream}num_attention_heads"] * t[f"{stream}attention_head_dim"]
    text = width if t.get("caption_proj_before_connector") else t["caption_channels"]
    key = f"{name}:{stream}"
    sigmas = np.array(sigma, np.float32)
    mask = uniform(f"{key}mask", batch, tokens, 1)
    mask[:, : tokens // 3] = 0.0  # conditioning tokens are kept, others denoised partly or fully
    mask[:, tokens // 2 :] = 1.0
    fields = {
        "latent": Data(normal(f"{key}latent", batch, tokens, t.get(f"{stream}in_channels", 128))),
        "sigma": Data(sigmas, "none"),
        "timesteps": Data(mask * sigmas[:, None, None], "none"),
        "positions": Data(np.stack(positions), "none" if audio else "lane"),
        "context": Data(normal(f"{key}context", batch, 9 if audio else 13, text)),
    }
    return Obj("Modality", fields | extra)


def skip(*samples: dict[str, list[int] | None]) -> Obj:
    """One ``{perturbation: blocks}`` a sample."""
    return Obj(
        "BatchedPerturbationConfig",
        {
            "perturbations": [
                Obj(
                    "PerturbationConfig",
                    {
                        "perturbations": [
                            Obj("Perturbation", {"type": Member("PerturbationType", kind), "blocks": blocks})
                            for kind, blocks in sample.items()
                        ]
                    },
                )
                for sample in samples
            ]
        },
    )


def _twin(t: dict[str, Any]) -> tuple[str, ...]:
    """The same case of a checkpoint of the same widths with other rotary settings."""
    if t["rope_type"] == "interleaved":
        return ("tiny-2.0:base",)
    return () if t.get("apply_gated_attention") else ("tiny-2.0-interleaved:base",)


def _long(video: Obj, audio: Obj | None) -> Case:
    """Thousands of tokens far into a clip, and a prompt that is longer than any, padded. Of the modules, one block."""
    for stream, valid in ((video, 1027), (audio, 1009)):
        if stream is not None:
            name, width = f"long:{valid}", stream.fields["context"].values.shape[-1]
            keep = (np.arange(1031)[None] < valid).astype(np.int64)
            stream.fields["context"] = Data(normal(name, 1, 1031, width))
            stream.fields["context_mask"] = Data(keep, "none")
    taps = ("*generate_freqs", "transformer_blocks.0.*attn?", "*.apply_rotary_emb", "X0Model")
    return Case({"video": video, "audio": audio, "perturbations": None}, half=False, taps=taps)


def cases(config: dict[str, Any]) -> dict[str, Case]:
    """Cases for an audio-video or a video-only checkpoint."""
    t = config["transformer"]
    av = t.get("use_audio_video_cross_attention", False)
    video_grid = [grid(3, 3, 5, fps=29.97), grid(3, 3, 5, fps=50.0, first=4, corner=(3, 1))]
    audio_grid = [seconds(18), seconds(18, first=7)]
    pair = [0.909375, 0.725], [0.421875, 0.98125]  # sigma of video, of audio

    def video(name: str, positions: list[np.ndarray] = video_grid, sigma: list[float] = pair[0], **extra: Any) -> Obj:
        return modality(config, False, name, sigma, positions, **extra)

    def audio(
        name: str, positions: list[np.ndarray] = audio_grid, sigma: list[float] = pair[1], **extra: Any
    ) -> Obj | None:
        return modality(config, True, name, sigma, positions, **extra) if av else None

    def case(v: Obj | None, a: Obj | None, perturbations: Obj | None = None, half: bool = False, **extra: Any) -> Case:
        return Case({"video": v, "audio": a, "perturbations": perturbations}, half=half, **extra)

    # Cases that differ from the first in one thing, before and after it: the caches must tell them apart.
    other = [grid(3, 3, 5, fps=25.0), grid(3, 3, 5, fps=50.0, first=4, corner=(3, 1))]
    prompt = {"context": video("other prompt").fields["context"]}
    before = (*_twin(t), "base@bfloat16", "rate", "prompt")
    result = {
        "base": case(video("base"), audio("base"), half=True, after=before),
        "rate": case(video("base", other), audio("base"), isolated=False, after=("base",)),
        "prompt": case(video("base", **prompt), audio("base"), isolated=False, after=("base",)),
    }

    # Every sigma of the true schedule at once, one for all tokens of a sample, video and audio at different steps. The
    # first sample is so loud that its squares are beyond float16: a norm must not take them in it.
    sigmas = list(DISTILLED_SIGMAS)
    rates = (24.0, 25.0, 29.97, 30.0, 50.0, 60.0, 23.976, 12.0)
    shared: dict[str, Any] = {"timesteps": Data(np.array(sigmas, np.float32)[:, None, None], "none")}
    reverse: dict[str, Any] = {"timesteps": Data(np.array(sigmas[::-1], np.float32)[:, None, None], "none")}
    streams = (
        video("schedule", [grid(2, 2, 3, fps, first=i) for i, fps in enumerate(rates)], sigmas, **shared),
        audio("schedule", [seconds(5, first=3 * i) for i in range(len(rates))], sigmas[::-1], **reverse),
    )
    for stream in filter(None, streams[: 2 if av else 1]):
        stream.fields["latent"].values[0] *= 1024
    result["schedule"] = case(*streams, half=True)

    # Fractional self-attention strengths with hidden pairs, and text of unequal lengths.
    def masks(name: str, tokens: int, text: int) -> dict[str, Any]:
        strength = uniform(f"masks:{name}", 2, tokens, tokens)
        strength[strength < 0.2] = 0.0
        strength[strength > 0.7] = 1.0
        keep = np.arange(text)[None] < np.array([[text], [text - 4]])
        return {"attention_mask": Data(strength, "none"), "context_mask": Data(keep.astype(np.int64), "none")}

    result["masks"] = case(video("masks", **masks("v", 45, 13)), audio("masks", **masks("a", 18, 9)), half=True)

    # Spatio-temporal guidance: self-attention skipped in one block for all samples, in another for one of them.
    both: dict[str, list[int] | None] = {"skip_video_self_attn": [1], "skip_audio_self_attn": [0]}
    one: dict[str, list[int] | None] = {"skip_video_self_attn": [0, 1], "skip_audio_self_attn": [0, 1]}
    result["stg"] = case(video("stg"), audio("stg"), skip(both, one))
    # Lists of nothing: a sample without perturbations, and a perturbation of no block.
    result["stg-none"] = case(video("stg"), audio("stg"), skip({}, {"skip_video_self_attn": []}))

    # Positions past 10 s and far from the corner, at other frame rates: angles grow to ±15,708.
    late = [grid(3, 2, 3, fps=30.0, first=70), grid(3, 2, 3, fps=23.976, first=51, corner=(20, 33))]
    result["late"] = case(
        video("late", late), audio("late", [seconds(11, first=470), seconds(11, first=333)]), after=("base",)
    )
    if t.get("apply_gated_attention"):
        size = (5, 11, 22) if av else (11, 17, 23)  # 1,210 or 4,301 tokens of video, and 24 s of audio
        long = [grid(*size, fps=29.97, first=65)], [seconds(601, first=7)]
        result["long"] = _long(video("long", long[0], [0.725]), audio("long", long[1], [0.975]))

    if av:
        # Modality guidance: each way cut for all samples in one block, for one sample in another, in every block.
        cut: dict[str, list[int] | None] = {"skip_a2v_cross_attn": [0], "skip_v2a_cross_attn": [1]}
        result["cut"] = case(
            video("cut"), audio("cut"), skip(cut, {"skip_a2v_cross_attn": None, "skip_v2a_cross_attn": None})
        )
        result["video-alone"] = case(video("video-alone"), None)
        result["audio-alone"] = case(None, audio("audio-alone"))
        if t.get("apply_gated_attention"):
            result["audio-frozen"] = case(video("audio-frozen"), audio("audio-frozen", enabled=False))
        else:
            result["video-frozen"] = case(video("video-frozen", enabled=False), audio("video-frozen"))
    if t["rope_type"] == "interleaved":  # the rotary tables alone are others than in tiny-2.0
        return {name: result[name] for name in ("base", "rate", "prompt", "schedule", "masks", "late")}
    return result


TRANSFORMER = Stage(
    name="transformer",
    component="transformer",
    fits=lambda config: not section(config, "transformer").get("use_keyframes_abs_pos_embedding"),
    wrapper="X0Model",
    cases=cases,
    classes=CLASSES,
    configs=("tiny-2.0", "tiny-2.3", "tiny-2.0-interleaved", "tiny-2.3-video-only"),
    functions=FUNCTIONS,
    defined=("*time_proj", "*generate_freqs"),
    probes=("*norm", "*norm_out", "*rms_norm"),
)
