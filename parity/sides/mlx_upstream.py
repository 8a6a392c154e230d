"""Ours as upstream computes it, by the calls of ``parity/sides/torch/upstream.py``."""

from __future__ import annotations

import contextlib
import importlib
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest import mock

import mlx.core as mx
import numpy as np

from .mlx import MLX, _listed, _Network, _Recorded, stand_in
from .values import compared

Size = Sequence[int]


def _product(module: str) -> Any:
    return importlib.import_module(f"ltx2_mlx.{module}")  # looked up when called, see sides/mlx.py


def _upstream() -> Any:
    return _product("diffusion.behaviour").UPSTREAM


def ancestral_coefficients(sigmas: mx.array, index: int, eta: float, like: mx.array) -> np.ndarray:
    stepper, host = _product("diffusion.diffusion_steps").EulerAncestralDiffusionStep(eta), np.array(sigmas)
    return np.array(stepper.coefficients(host[index], host[index + 1]))


def ancestral_step(
    sample: mx.array,
    denoised: mx.array,
    noise: mx.array,
    sigmas: mx.array,
    index: int,
    eta: float,
    s_noise: float = 1.0,
) -> mx.array:
    stepper = _product("diffusion.diffusion_steps").EulerAncestralDiffusionStep(eta, s_noise)
    stepped: mx.array = stepper.step(sample, denoised, np.array(sigmas), index, noise)
    return stepped


def euler_ancestral_denoising_loop(
    sigmas: mx.array, video: Any, audio: Any, targets: tuple[mx.array, mx.array], noise: list[mx.array]
) -> Any:
    calls: list[Any] = []
    drawn: list[Any] = []
    loop = _product("diffusion.samplers").euler_ancestral_denoising_loop
    generator = _Recorded(noise, drawn)
    states = loop(np.array(sigmas), video, audio, stand_in(targets, calls), generator=generator)
    return [state.latent for state in states], _listed(calls), _listed(drawn)


def _tools(size: Size, fps: float) -> Any:
    patchifier = _product("diffusion.patchifiers").VideoLatentPatchifier(1)
    shape = _product("types").VideoLatentShape(*size)
    tools = _product("diffusion.latent_state").VideoLatentTools
    return tools(patchifier, shape, fps, behaviour=_upstream(), keyframes=True)


def video_positions(size: Size, fps: float, dtype: mx.Dtype) -> mx.array:
    positions: mx.array = _tools(size, fps).create_initial_state(dtype).positions
    return positions


def _with(item: Any, state: Any, size: Size, fps: float = 24.0) -> dict[str, Any]:
    """A state with a condition, of the marks that an empty one has."""
    tools = _tools(size, fps)
    marks = tools.create_initial_state(state.latent.dtype).keyframes_mask
    result = item.apply_to(replace(state, keyframes_mask=marks), tools)
    names = ("latent", "clean_latent", "denoise_mask", "positions", "keyframes_mask")
    return {name: getattr(result, name) for name in names}


def with_keyframe(
    state: Any, latent: mx.array, frame_idx: int, strength: float, size: Size, fps: float
) -> dict[str, Any]:
    item = _product("diffusion.conditioning").VideoConditionByKeyframeIndex(latent, frame_idx, strength)
    return _with(item, state, size, fps)


def with_reference(
    state: Any, latent: mx.array, factor: int, strength: float, size: Size, fps: float
) -> dict[str, Any]:
    item = _product("diffusion.conditioning").VideoConditionByReferenceLatent(latent, factor, strength)
    return _with(item, state, size, fps)


def with_replaced(state: Any, latent: mx.array, latent_idx: int, strength: float, size: Size) -> dict[str, Any]:
    item = _product("diffusion.conditioning").VideoConditionByLatentIndex(latent, strength, latent_idx)
    return _with(item, state, size)


def noise_interpolated(noise: mx.array, state: Any, scale: float) -> mx.array:
    noiser = _product("diffusion.noisers").GaussianNoiser(_Recorded([noise], []), _upstream())
    latent: mx.array = noiser(state, scale).latent
    return latent


def guidance_in_float32(scales: dict[str, float], cond: mx.array, **others: mx.array) -> mx.array:
    guiders = _product("diffusion.guiders")
    guider = guiders.MultiModalGuider(guiders.MultiModalGuiderParams(**scales))
    ordered = [others[f"uncond_{name}"] for name in ("text", "perturbed", "modality")]
    guided: mx.array = _upstream().guided(guider, cond, ordered)
    return guided


def frozen_stream(
    sigmas: mx.array, video: Any, audio: Any, v_context: mx.array, a_context: mx.array, marks: mx.array
) -> Any:
    network, video = _Network(), replace(video, keyframes_mask=marks)
    denoise = _product("diffusion.denoisers").simple_denoising_func(v_context, a_context, network)
    frozen = _product("diffusion.conditioning").FrozenStream(_upstream()).apply_to(audio, None)
    results = [denoise(video, frozen, np.array(sigmas), i) for i in range(len(sigmas) - 1)]
    return results, _listed(network.calls)


# ---- what a version and a behaviour choose ------------------------------------------------------------------------


@contextlib.contextmanager
def _made(version: str, behaviour: str | None, keyframes: bool = False, **settings: Any) -> Iterator[Any]:
    """Settings of a behaviour, while every checkpoint is of a version. Random numbers know their seed."""
    ledger = _product("pipelines.ledger")
    header = SimpleNamespace(version=version, config={"transformer": {"use_keyframes_abs_pos_embedding": keyframes}})
    with mock.patch.object(ledger, "read_checkpoint", lambda path: header):
        yield ledger.Settings(dtype=mx.float32, noise=_Seeded, behaviour=behaviour, **settings)


class _Seeded:
    """A stream of zeros that knows its seed."""

    def __init__(self, seed: int):
        self.seed = seed

    def randn(self, shape: Sequence[int], dtype: mx.Dtype) -> mx.array:
        return mx.zeros(shape, dtype)


def of_version(version: str, behaviour: str | None) -> dict[str, Any]:
    """The defaults of a version, and the behaviour that a run of its models has."""
    old = _product("pipelines.constants").DEFAULT_NEGATIVE_PROMPT
    files = _product("pipelines.ledger")
    network = mock.patch.object(files, "load", lambda *args, **kwargs: _product("nn.module").Module())
    with _made(version, behaviour) as settings, network:
        ledger = files.ModelLedger("x", settings=settings)
        params = ledger.params
        found = {
            "behaviour": ledger.behaviour.name,
            "timing": ledger.transformer().velocity_model.audio_video_timing,
            "steps": params.num_inference_steps,
            "video_blocks": params.video_guider_params.stg_blocks,
            "audio_blocks": params.audio_guider_params.stg_blocks,
            "image_crf": params.image_crf,
            "avoided": params.negative_prompt.removesuffix(old),
            "our own text": params.negative_prompt.endswith(old),
        }
    return compared(MLX(), "", found)


_PIPELINES = {
    "distilled": "DistilledPipeline",
    "ti2vid_one_stage": "TI2VidOneStagePipeline",
    "ti2vid_two_stages": "TI2VidTwoStagesPipeline",
    "ti2vid_two_stages_hq": "TI2VidTwoStagesHQPipeline",
    "keyframe_interpolation": "KeyframeInterpolationPipeline",
    "a2vid_two_stage": "A2VidPipelineTwoStage",
    "ic_lora": "ICLoraPipeline",
    "retake": "RetakePipeline",
}
_SIZE = {"height": 64, "width": 64, "num_frames": 9, "frame_rate": 24.0}


def wired(recipe: str, version: str, behaviour: str | None, seed: int) -> dict[str, Any]:
    """What a pipeline chooses for each of its stages, and whose audio it decodes. Nothing is loaded or computed."""
    with _made(version, behaviour, keyframes=True) as settings, contextlib.ExitStack() as undo:
        seen = _Seen(undo, recipe)
        pipeline = getattr(_product("pipelines"), _PIPELINES[recipe])
        files, call = seen.arguments(pipeline)
        pipeline(**files, settings=settings)(**call, prompt="x", seed=seed)
    return compared(MLX(), "", seen.found)


class _Seen:
    """A pipeline's stages, watched: each leaves the latents as they are."""

    def __init__(self, undo: contextlib.ExitStack, recipe: str):
        self.found: dict[str, Any] = {}
        self.audio: list[mx.array] = []
        self.number = 0
        stages, ledger = _product("pipelines.stages"), _product("pipelines.ledger").ModelLedger
        module, one = _product(f"pipelines.{recipe}"), _product("pipelines.ti2vid_one_stage")
        self.denoise, self.state = stages.denoise_audio_video, stages.create_noised_state
        context = _product("text.embeddings").EmbeddingsProcessorOutput(*[mx.zeros((1, 1, 1))] * 2, mx.ones((1, 1)))
        latent, sound = mx.zeros((1, 128, 2, 2, 2)), mx.zeros((1, 8, 9, 16))
        audio = SimpleNamespace(waveform=mx.zeros((1, 2, 6000)), sampling_rate=16000)
        replaced: list[tuple[Any, str, Any]] = [
            (_product("pipelines.checks"), "check_call", lambda *args, **kwargs: None),
            (ledger, "transformer", lambda ledger: object()),
            (ledger, "video_encoder", lambda ledger: None),
            (stages, "prompt_contexts", lambda ledger, prompts, *args, **kwargs: [context] * len(prompts)),
            (stages, "denoise_audio_video", self.denoised),
            (stages, "create_noised_state", self.noised),
            (stages, "upsampled", lambda ledger, latent: mx.repeat(mx.repeat(latent, 2, axis=3), 2, axis=4)),
            (stages, "decoded", self.decoded),
            (one, "multi_modal_guider_factory_denoising_func", self.guided),
        ]
        if recipe == "a2vid_two_stage":
            replaced += [(module, "read_audio", lambda *args: audio), (module, "_encoded", lambda *args: sound)]
            replaced.append((module, "multi_modal_guider_denoising_func", self.guided))
        if recipe == "ic_lora":
            replaced.append((module, "reference_downscale_factor", lambda loras: 1))
        if recipe == "retake":
            shape = _product("types").VideoPixelShape(1, 9, 64, 64, 24.0)
            replaced += [(module, "source_shape", lambda path: shape), (module, "_encoded_audio", lambda *args: sound)]
            replaced.append((module, "_encoded_video", lambda *args: latent))
        for owner, name, other in replaced:
            undo.enter_context(mock.patch.object(owner, name, other))

    def arguments(self, pipeline: type) -> tuple[dict[str, Any], dict[str, Any]]:
        """Of the constructor, and of the call without prompt and seed."""
        params = _product("diffusion.guiders").MultiModalGuiderParams()
        lora = _product("loading.lora").LoraPathStrength("lora")
        known = {
            "loras": (),
            "distilled_lora": [lora],
            "distilled_lora_strength_stage_1": 0.5,
            "distilled_lora_strength_stage_2": 0.5,
            "gemma_root": None,
            "spatial_upsampler_path": "upsampler",
            "checkpoint_path": "checkpoint",
            "distilled_checkpoint_path": "checkpoint",
            "negative_prompt": "y",
            "num_inference_steps": 2,
            "video_guider_params": params,
            "audio_guider_params": params,
            "audio_path": "audio",
            "images": (),
            "video_conditioning": (),
            "video_path": "video",
            "start_time": 0.0,
            "end_time": 0.2,
            "regenerate_video": True,
            "regenerate_audio": False,
            **_SIZE,
        }
        init, call = (inspect.signature(getattr(pipeline, name)).parameters for name in ("__init__", "__call__"))
        return {k: v for k, v in known.items() if k in init}, {k: v for k, v in known.items() if k in call}

    def put(self, name: str, value: Any) -> None:
        self.found[f"{self.number}.{name}"] = value

    def denoised(self, ledger: Any, name: str, shape: Any, noiser: Any, sigmas: Any, asking: Any, **more: Any) -> Any:
        self.number += 1
        loop = more.pop("loop", None)
        own = _product("diffusion.samplers").euler_denoising_loop
        self.put("loop", getattr(loop or own, "func", loop or own).__name__)
        for which in ("", "step_", "substep_"):
            if generator := getattr(loop, "keywords", {}).get(f"{which}generator"):
                self.put(f"{which}seed", generator.seed)
        self.put("noise", noiser.behaviour.name)
        result = self.denoise(ledger, name, shape, noiser, sigmas, asking, loop=self.looped, **more)
        self.audio.append(result[1])
        return result

    def noised(self, tools: Any, *args: Any, **kwargs: Any) -> Any:
        if hasattr(tools, "fps"):
            self.put("video", tools.behaviour.name)
            self.put("marks", tools.keyframes)
        return self.state(tools, *args, **kwargs)

    def looped(self, sigmas: Any, video: Any, audio: Any, denoise_fn: Any, progress: Any) -> Any:
        self.put("video_sigma", video.sigma)
        self.put("audio_sigma", audio.sigma)
        return video, audio

    def guided(self, *args: Any) -> Any:
        kind = _product("diffusion.behaviour").Behaviour
        self.put("guidance", next((arg.name for arg in args if isinstance(arg, kind)), "1.0.0"))

    def decoded(self, ledger: Any, video: Any, audio: Any, *args: Any) -> tuple[str, Any]:
        self.found["audio"] = next((i for i, each in enumerate(self.audio, 1) if each is audio), None)
        return "frames", SimpleNamespace(waveform=mx.zeros((1, 2)), sampling_rate=1)
