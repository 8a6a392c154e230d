"""The pipelines, whole: what each is given, and what it is compared by on the way."""

from __future__ import annotations

from typing import Any

from ..inputs import seed
from ..model import Counterparts, Files, Obj, Pipeline, Watch

PROMPT = "A red fox walks through fresh snow; the camera follows, wind hums."
NEGATIVE = "blurry, low quality, static"
FRAMES, RATE = 17, 24.0

_CORE, _OURS = "ltx_core", "ltx2_mlx"
WATCHES = (
    Watch(
        "text",
        Counterparts(
            f"{_CORE}.text_encoders.gemma.embeddings_processor:EmbeddingsProcessor.process_hidden_states",
            f"{_OURS}.text.embeddings:EmbeddingsProcessor.process_hidden_states",
        ),
        {"mask": "attention_mask", "hidden": "hidden_states"},
        {"video": ".video_encoding", "audio": ".audio_encoding"},
    ),
    Watch(
        "video_encoder",
        Counterparts(
            f"{_CORE}.model.video_vae.video_vae:VideoEncoder.forward", f"{_OURS}.video_vae:VideoEncoder.__call__"
        ),
        {"in": "sample"},
        {"out": ""},
    ),
    Watch(
        "audio_encoder",
        Counterparts(
            f"{_CORE}.model.audio_vae.audio_vae:AudioEncoder.forward", f"{_OURS}.audio_vae:AudioEncoder.__call__"
        ),
        {"mel": "spectrogram"},
        {"out": ""},
    ),
    Watch(
        "noiser",
        Counterparts(
            f"{_CORE}.components.noisers:GaussianNoiser.__call__", f"{_OURS}.diffusion.noisers:GaussianNoiser.__call__"
        ),
        {
            "latent": "latent_state.latent",
            "clean": "latent_state.clean_latent",
            "mask": "latent_state.denoise_mask",
            "positions": "latent_state.positions",
            "attention": "latent_state.attention_mask",
        },
        {"out": ".latent"},
    ),
    Watch(
        "x0",
        Counterparts(f"{_CORE}.model.transformer.model:X0Model.forward", f"{_OURS}.transformer:X0Model.__call__"),
        {
            "in.video": "video.latent",
            "in.audio": "audio.latent",
            "timesteps.video": "video.timesteps",
            "timesteps.audio": "audio.timesteps",
        },
        {"video": ".0", "audio": ".1"},
    ),
    Watch(
        "step",
        Counterparts(
            f"{_CORE}.components.diffusion_steps:EulerDiffusionStep.step",
            f"{_OURS}.diffusion.diffusion_steps:EulerDiffusionStep.step",
        ),
        {"denoised": "denoised_sample"},
        {"out": ""},
    ),
    Watch(
        "sde_step",
        Counterparts(
            f"{_CORE}.components.diffusion_steps:Res2sDiffusionStep.step",
            f"{_OURS}.diffusion.diffusion_steps:Res2sDiffusionStep.step",
        ),
        {"denoised": "denoised_sample", "noise": "noise"},
        {"out": ""},
    ),
    Watch(
        "video_latent",
        Counterparts(
            f"{_CORE}.tools:VideoLatentTools.unpatchify", f"{_OURS}.diffusion.latent_state:VideoLatentTools.unpatchify"
        ),
        outputs={"out": ".latent"},
    ),
    Watch(
        "audio_latent",
        Counterparts(
            f"{_CORE}.tools:AudioLatentTools.unpatchify", f"{_OURS}.diffusion.latent_state:AudioLatentTools.unpatchify"
        ),
        outputs={"out": ".latent"},
    ),
    Watch(
        "upsampler",
        Counterparts(
            f"{_CORE}.model.upsampler.model:LatentUpsampler.forward", f"{_OURS}.upsampler:LatentUpsampler.__call__"
        ),
        {"in": "latent"},
        {"out": ""},
    ),
    Watch(
        "video_decoder",
        Counterparts(
            f"{_CORE}.model.video_vae.video_vae:VideoDecoder.forward", f"{_OURS}.video_vae:VideoDecoder.__call__"
        ),
        {"in": "sample"},
        {"out": ""},
    ),
    Watch(
        "audio_decoder",
        Counterparts(
            f"{_CORE}.model.audio_vae.audio_vae:AudioDecoder.forward", f"{_OURS}.audio_vae:AudioDecoder.__call__"
        ),
        {"in": "sample"},
        {"mel": ""},
    ),
)
CLASSES = {
    "Lora": Counterparts("parity.sides.torch.pipelines:lora", f"{_OURS}.loading.lora:LoraPathStrength"),
    "Image": Counterparts("ltx_pipelines.utils.args:ImageConditioningInput", f"{_OURS}.types:ImageConditioningInput"),
    "Guidance": Counterparts(
        f"{_CORE}.components.guiders:MultiModalGuiderParams", f"{_OURS}.diffusion.guiders:MultiModalGuiderParams"
    ),
    "Tiling": Counterparts(f"{_CORE}.model.video_vae:TilingConfig", f"{_OURS}.tiling:TilingConfig"),
    "Space": Counterparts(f"{_CORE}.model.video_vae:SpatialTilingConfig", f"{_OURS}.tiling:SpatialTilingConfig"),
    "Time": Counterparts(f"{_CORE}.model.video_vae:TemporalTilingConfig", f"{_OURS}.tiling:TemporalTilingConfig"),
}
# Two tiles or more along time and both sides of 128 × 192 pixels.
TILES = Obj(
    "Tiling",
    {
        "spatial_config": Obj("Space", {"tile_size_in_pixels": 96, "tile_overlap_in_pixels": 32}),
        "temporal_config": Obj("Time", {"tile_size_in_frames": 16, "tile_overlap_in_frames": 8}),
    },
)


def lora(path: Any, strength: float) -> Obj:
    return Obj("Lora", {"path": str(path), "strength": strength})


def guidance(cfg: float, **other: Any) -> Obj:
    """Every kind of guidance at once: four calls of the transformer a step."""
    fields = {"stg_scale": 1.0, "rescale_scale": 0.7, "modality_scale": 3.0, "stg_blocks": [1]}
    return Obj("Guidance", {"cfg_scale": cfg, **fields, **other})


def images(files: Files, last: int = FRAMES - 1) -> list[Obj]:
    """The first frame, through H.264 as by default; the last one, nearly kept and as it is in the file."""
    at = ((0, 1.0, 33), (last, 0.8, 0))
    return [
        Obj("Image", {"path": str(path), "frame_idx": frame, "strength": strength, "crf": crf})
        for path, (frame, strength, crf) in zip(files.images, at, strict=True)
    ]


def _paths(f: Files, *names: str) -> dict[str, str]:
    known = {
        "checkpoint_path": f.checkpoint,
        "distilled_checkpoint_path": f.checkpoint,
        "gemma_root": f.gemma,
        "spatial_upsampler_path": f.upsampler,
    }
    return {name: str(known[name]) for name in ("gemma_root", *names)}


def _distilled_files(f: Files) -> dict[str, Any]:
    paths = _paths(f, "distilled_checkpoint_path", "spatial_upsampler_path")
    return {**paths, "loras": [lora(f.lora, 0.7)]}


def _one_stage_files(f: Files) -> dict[str, Any]:
    return {**_paths(f, "checkpoint_path"), "loras": [lora(f.lora, 0.7)]}


def _two_stage_files(f: Files) -> dict[str, Any]:
    both = {"distilled_lora": [lora(f.distilled_lora, 1.0)], "loras": [lora(f.lora, 0.7)]}
    return {**_paths(f, "checkpoint_path", "spatial_upsampler_path"), **both}


def _hq_files(f: Files) -> dict[str, Any]:
    strengths = {"distilled_lora_strength_stage_1": 0.25, "distilled_lora_strength_stage_2": 0.5}
    return {**_two_stage_files(f), **strengths}


def _ic_lora_files(f: Files) -> dict[str, Any]:
    paths = _paths(f, "distilled_checkpoint_path", "spatial_upsampler_path")
    return {**paths, "loras": [lora(f.ic_lora, 1.0)]}


def _base(f: Files, **other: Any) -> dict[str, Any]:
    size = {"height": 128, "width": 192, "num_frames": FRAMES, "frame_rate": RATE}
    return {"prompt": PROMPT, "seed": 10 + seed(), "images": images(f), **size, **other}


def _guided(steps: int, video: Obj, audio: Obj | None = None) -> dict[str, Any]:
    params = {"negative_prompt": NEGATIVE, "num_inference_steps": steps, "video_guider_params": video}
    return params | ({"audio_guider_params": audio} if audio else {})


def _retake(f: Files, **other: Any) -> dict[str, Any]:
    return {
        "video_path": str(f.clip),
        "prompt": PROMPT,
        "start_time": 0.2,
        "end_time": 0.5,
        "seed": 10 + seed(),
        **other,
    }


# Where no second stage follows: guidance multiplies the rounding of bfloat16, and the reference would come within 1 dB
# of the gate against itself.
_GENTLE = {"stg_scale": 0.5, "modality_scale": 1.5}
_SECOND_ORDER = {"stg_scale": 0.0, "stg_blocks": []}


def _pipeline(name: str, module: str, cls: str, init: Any, call: Any, without: str = "") -> Pipeline:
    watches = tuple(watch for watch in WATCHES if watch.name != without)
    return Pipeline(f"pipelines.{name}", module, cls, init, call, watches, CLASSES)


PIPELINES = (
    _pipeline(
        "distilled",
        "distilled",
        "DistilledPipeline",
        _distilled_files,
        lambda f: _base(f, tiling_config=TILES),
    ),
    _pipeline(
        "one_stage",
        "ti2vid_one_stage",
        "TI2VidOneStagePipeline",
        _one_stage_files,
        lambda f: _base(f, **_guided(2, guidance(2.0, **_GENTLE), guidance(3.0, **_GENTLE))),
    ),
    _pipeline(
        "two_stages",
        "ti2vid_two_stages",
        "TI2VidTwoStagesPipeline",
        _two_stage_files,
        lambda f: _base(f, **_guided(3, guidance(3.0), guidance(7.0, skip_step=1)), tiling_config=TILES),
    ),
    _pipeline(
        "two_stages_hq",
        "ti2vid_two_stages_hq",
        "TI2VidTwoStagesHQPipeline",
        _hq_files,
        lambda f: _base(
            f,
            **_guided(
                2,
                guidance(3.0, **_SECOND_ORDER, rescale_scale=0.45),
                guidance(7.0, **_SECOND_ORDER, rescale_scale=1.0),
            ),
        ),
    ),
    _pipeline(
        "keyframe_interpolation",
        "keyframe_interpolation",
        "KeyframeInterpolationPipeline",
        _two_stage_files,
        lambda f: _base(f, **_guided(2, guidance(3.0), guidance(7.0))),
    ),
    _pipeline(
        "ic_lora",
        "ic_lora",
        "ICLoraPipeline",
        _ic_lora_files,
        lambda f: _base(f, width=256, video_conditioning=[(str(f.clip), 0.9)], conditioning_attention_strength=0.6),
    ),
    _pipeline(
        "a2vid_two_stage",
        "a2vid_two_stage",
        "A2VidPipelineTwoStage",
        _two_stage_files,
        lambda f: _base(f, **_guided(2, guidance(3.0)), audio_path=str(f.audio), audio_max_duration=FRAMES / RATE),
        without="audio_latent",  # which is given: the reference throws away what it has of it at the end
    ),
    _pipeline(
        "retake",
        "retake",
        "RetakePipeline",
        _one_stage_files,
        lambda f: _retake(f, **_guided(2, guidance(2.0, **_GENTLE), guidance(3.0, **_GENTLE))),
    ),
    _pipeline(
        "retake_distilled",
        "retake",
        "RetakePipeline",
        _one_stage_files,
        lambda f: _retake(f, distilled=True),
    ),
)
