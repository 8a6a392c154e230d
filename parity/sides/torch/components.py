"""The torch side: load ltx-core's components as its pipelines do, run them, and turn them into a float64 oracle."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import json
import logging
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any
from unittest import mock

import numpy as np
import torch

from ltx2_mlx.loading.checkpoint import CheckpointPath

from ...declare.inputs import GEMMA
from ...declare.model import Case, Stage, section
from ...tap.execute import execute
from ...tap.raw_safetensors import places
from ...tap.session import Session
from ...tap.side import Loras, Side, resolve
from ...tap.trace import Tensor, Trace
from ..loading import files_of
from .operations import Counting

# ltx-pipelines runs on a GPU where torch finds one, and draws its noise there. Here the reference runs on the CPU, also
# beside an MLX that runs on the GPU.
vars(torch.cuda).update(is_available=lambda: False)
# It would say in each run that tiles overlap by more than cases ask for, which is what they are to show.
logging.getLogger("ltx_core").setLevel(logging.ERROR)


def _import_torchaudio() -> None:
    """torchaudio without its compiled library, which asks for a CUDA build of torch and which the reference never
    calls: its resampling and its spectrograms are plain torch."""
    stub = ModuleType("torchaudio._extension")
    vars(stub).update(
        _IS_TORCHAUDIO_EXT_AVAILABLE=False,
        fail_if_no_align=lambda function: function,
        _load_lib=lambda name: False,
        _check_cuda_version=lambda: None,
    )
    sys.modules.setdefault("torchaudio._extension", stub)
    import torchaudio  # noqa: F401


_import_torchaudio()
from ltx_core.loader import LTXV_LORA_COMFY_RENAMING_MAP, single_gpu_model_builder  # noqa: E402
from ltx_core.loader.fuse_loras import apply_loras  # noqa: E402
from ltx_core.loader.sd_ops import ContentMatching, ContentReplacement, SDOps  # noqa: E402
from ltx_core.loader.sft_loader import SafetensorsModelStateDictLoader  # noqa: E402
from ltx_core.loader.single_gpu_model_builder import SingleGPUModelBuilder  # noqa: E402
from ltx_core.model import audio_vae  # noqa: E402
from ltx_core.model.audio_vae import vocoder  # noqa: E402
from ltx_core.model.transformer import (  # noqa: E402
    LTXV_MODEL_COMFY_RENAMING_MAP,
    LTXModelConfigurator,
    LTXVideoOnlyModelConfigurator,
)
from ltx_core.model.upsampler import LatentUpsamplerConfigurator  # noqa: E402
from ltx_core.model.video_vae import (  # noqa: E402
    VAE_DECODER_COMFY_KEYS_FILTER,
    VAE_ENCODER_COMFY_KEYS_FILTER,
    VideoDecoderConfigurator,
    VideoEncoderConfigurator,
)
from ltx_core.quantization import QuantizationPolicy, fp8_cast  # noqa: E402
from ltx_core.types import Audio  # noqa: E402

torch.set_num_threads(1)  # tiny tensors: the runner uses one process a core
torch.set_grad_enabled(False)
_randn = torch.randn  # the untapped one


def _transformer(config: dict[str, Any]) -> tuple[type, Any]:
    av = config["transformer"].get("use_audio_video_cross_attention", False)
    return LTXModelConfigurator if av else LTXVideoOnlyModelConfigurator, LTXV_MODEL_COMFY_RENAMING_MAP


def _tiny_gemma() -> Any:
    return json.loads((GEMMA / "config.json").read_text())


def _embeddings_processor(config: dict[str, Any]) -> tuple[type, Any]:
    """With the sizes of the Gemma that goes with the checkpoint: the reference takes them from a global (12B's)."""
    from ltx_core.text_encoders.gemma import EMBEDDINGS_PROCESSOR_KEY_OPS, EmbeddingsProcessorConfigurator
    from ltx_core.text_encoders.gemma.config import GEMMA3_CONFIG_FOR_LTX

    sizes, tiny = dataclasses.asdict(GEMMA3_CONFIG_FOR_LTX.text_config), _tiny_gemma()["text_config"]
    if config["transformer"]["caption_channels"] == tiny["hidden_size"]:
        sizes = tiny
    sizes = {key: sizes[key] for key in ("hidden_size", "num_hidden_layers")}

    class Configurator(EmbeddingsProcessorConfigurator):
        @classmethod
        def from_config(cls, config: dict[str, Any]) -> Any:
            with mock.patch.multiple(GEMMA3_CONFIG_FOR_LTX.text_config, **sizes):
                return EmbeddingsProcessorConfigurator.from_config(config)

    return Configurator, EMBEDDINGS_PROCESSOR_KEY_OPS


def _video_encoder(config: dict[str, Any]) -> tuple[type, Any]:
    """The encoder beside a diffusion decoder is the other files' (its tensors are 2.3's), under other names in the
    config, which 1.0.0 does not know."""
    if "encoder" not in section(config, "vae"):
        return VideoEncoderConfigurator, VAE_ENCODER_COMFY_KEYS_FILTER
    nested = config["vae"]["encoder"]
    names = {"latent_channels": "out_channels", "encoder_blocks": "blocks", "encoder_base_channels": "base_channels"}
    flat = nested | {name: nested[other] for name, other in names.items() if other in nested}

    class Configurator(VideoEncoderConfigurator):
        @classmethod
        def from_config(cls, config: dict[str, Any]) -> Any:
            return VideoEncoderConfigurator.from_config(config | {"vae": flat})

    return Configurator, VAE_ENCODER_COMFY_KEYS_FILTER


# Component → its configurator and its key map, as in ltx_pipelines.utils.model_ledger.
BUILDERS: dict[str, Callable[[dict[str, Any]], tuple[type, Any]]] = {
    "transformer": _transformer,
    "video_encoder": _video_encoder,
    "video_decoder": lambda config: (VideoDecoderConfigurator, VAE_DECODER_COMFY_KEYS_FILTER),
    "upsampler": lambda config: (LatentUpsamplerConfigurator, None),
    "audio_encoder": lambda config: (
        audio_vae.AudioEncoderConfigurator,
        audio_vae.AUDIO_VAE_ENCODER_COMFY_KEYS_FILTER,
    ),
    "audio_decoder": lambda config: (
        audio_vae.AudioDecoderConfigurator,
        audio_vae.AUDIO_VAE_DECODER_COMFY_KEYS_FILTER,
    ),
    "vocoder": lambda config: (audio_vae.VocoderConfigurator, audio_vae.VOCODER_COMFY_KEYS_FILTER),
    "embeddings_processor": _embeddings_processor,
}


def in_file(key_map: SDOps | None, *files: Path) -> SDOps | None:
    """A component's key map for the names in a file. 2.5's video VAE lies in a file of its own, whose keys begin
    without ``vae.``, which 1.0.0 does not know."""
    if key_map is None or any(key_map.apply_to_key(name) is not None for file in files for name in places(file)[0]):
        return key_map

    def bare(rule: Any) -> Any:
        key = {ContentMatching: "prefix", ContentReplacement: "content"}.get(type(rule))
        return dataclasses.replace(rule, **{key: getattr(rule, key).removeprefix("vae.")}) if key else rule

    return dataclasses.replace(key_map, mapping=tuple(map(bare, key_map.mapping)))


def gemma_model(config: dict[str, Any]) -> torch.nn.Module:
    """Gemma 3 as ltx-core runs it, built directly: its own builder fails with transformers 5."""
    from transformers import Gemma3Config
    from transformers.models.gemma3 import modeling_gemma3

    text_config: Any = Gemma3Config.from_dict(config).text_config
    model: torch.nn.Module = every_state(modeling_gemma3, "Gemma3TextModel")(text_config)
    return model


def every_state(modeling: Any, name: str) -> Any:
    """A class of transformers' that returns every hidden state: before each layer, and after the final norm."""
    base = getattr(modeling, name)

    def forward(self: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        states: list[torch.Tensor] = []
        with contextlib.ExitStack() as undo:
            for layer in self.layers:
                hook = layer.register_forward_pre_hook(lambda module, args: states.append(args[0]))
                undo.callback(hook.remove)
            # It loops over a set of layer kinds, whose order changes from process to process.
            undo.enter_context(mock.patch.object(modeling, "set", in_order, create=True))
            output = base.forward(self, input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        return (*states, output.last_hidden_state)

    return type(name, (base,), {"forward": forward})


_TEXT_PREFIXES = ("language_model.model.", "model.language_model.", "model.")
_TEXT_PARTS = ("layers.", "embed_tokens.", "norm.")


def gemma_files(path: Path) -> list[Path]:
    """The files of a Gemma's weights: what is named ``model*``, and the index names if there is one; or one file."""
    index = path / "model.safetensors.index.json"
    if path.is_file():
        return [path]
    if not index.exists():
        return sorted(path.glob("model*.safetensors"))
    return [path / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]


def gemma_name(key: str) -> str | None:
    """The name in the text model of a tensor of a file; None for another model's, or a tokenizer."""
    prefix = next((prefix for prefix in _TEXT_PREFIXES if key.startswith(prefix)), None)
    name = None if prefix is None else key.removeprefix(prefix)
    return name if name is not None and name.startswith(_TEXT_PARTS) else None


def with_weights(model: torch.nn.Module, path: Path, dtype: torch.dtype) -> torch.nn.Module:
    """A text model with the tensors of a Gemma's files, all of them, in a dtype."""
    from safetensors.torch import load_file

    tensors = {k: t for file in gemma_files(path) for k, t in load_file(file).items()}
    model.load_state_dict({name: t for key, t in tensors.items() if (name := gemma_name(key)) is not None})
    for tensor in model.state_dict(
        keep_vars=True
    ).values():  # what no file holds stays float32: rotary frequencies, and
        tensor.data = tensor.data.to(dtype)  # the scale of the embedding
    return model.eval()


def in_order(values: Iterable[str]) -> list[str]:
    return sorted(set(values))


@functools.cache
def _tokenizer(path: str, max_length: int) -> Any:
    from ltx_core.text_encoders.gemma.tokenizer import LTXVGemmaTokenizer

    return LTXVGemmaTokenizer(path, max_length)


class Tokenizer:
    """ltx-core's tokenizer, its pairs of one prompt stacked as GemmaTextEncoder.encode stacks them."""

    def __init__(self, tokenizer_path: str, max_length: int):
        self._tokenizer = _tokenizer(tokenizer_path, max_length)

    def encode(self, text: list[str]) -> tuple[np.ndarray, np.ndarray]:
        pairs = [self._tokenizer.tokenize_with_weights(prompt)["gemma"] for prompt in text]
        both = np.array([[(int(token), int(weight)) for token, weight in row] for row in pairs])
        return both[..., 0], both[..., 1]


def _gemma_rms_norm(self: Any, x: torch.Tensor) -> Any:
    return self._norm(x) * (1.0 + self.weight)


def _gemma4_rms_norm(self: Any, hidden_states: torch.Tensor) -> Any:
    normed = self._norm(hidden_states)
    return normed * self.weight if self.with_scale else normed


# Modules that compute in float32 whatever they are given, and what the oracle runs in place of their forward.
WIDENED_MODULES = {"Gemma3RMSNorm": _gemma_rms_norm, "Gemma4UnifiedRMSNorm": _gemma4_rms_norm}


def timestep_embedding(timesteps: torch.Tensor, embedding_dim: int, **options: Any) -> torch.Tensor:
    """get_timestep_embedding in float64 of its float32 argument, for the oracle of that tap alone.

    The reference computes 128 frequencies by float32 exp, which no two libraries round alike, and multiplies them by
    up to 1000: its own distance from this, about 1e-5, is what ours may have. Downstream taps are grafted with the
    reference's float32 values, so nothing else is judged more loosely.
    """
    half = embedding_dim // 2
    exponent = -math.log(10000) * torch.arange(half, dtype=torch.float64) / half
    angles = timesteps.double()[:, None] * exponent.exp()
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


_resample_audio, _waveform_to_mel = audio_vae.AudioProcessor.resample_audio, audio_vae.AudioProcessor.waveform_to_mel


def _wide_resample_audio(self: audio_vae.AudioProcessor, audio: Audio) -> Audio:
    return _resample_audio(self, Audio(audio.waveform.double(), audio.sampling_rate))


def _wide_waveform_to_mel(self: audio_vae.AudioProcessor, audio: Audio) -> Any:
    """In float64 with the reference's own float32 window and filter bank."""
    return _waveform_to_mel(copy.deepcopy(self).double(), Audio(audio.waveform.double(), audio.sampling_rate))


# What the reference evaluates in float32 whatever its weights' dtype, and the oracle evaluates in float64.
WIDENED: dict[str, Callable[..., Any]] = {
    "ltx_core.model.transformer.timestep_embedding:get_timestep_embedding": timestep_embedding,
    "ltx_core.model.audio_vae.ops:AudioProcessor.resample_audio": _wide_resample_audio,
    "ltx_core.model.audio_vae.ops:AudioProcessor.waveform_to_mel": _wide_waveform_to_mel,
}


def _apply_loras(**arguments: Any) -> Any:
    """apply_loras into new tensors: into the checkpoint's own, what has no delta would keep the file's dtype."""
    return apply_loras(**arguments | {"destination_sd": None})


class UpcastLinear(torch.nn.Linear):
    """A layer of fp8-cast whose forward is its class's, where taps and copies find it."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        fp8_cast._replace_fwd_with_upcast(self)
        try:
            return self.forward(input)
        finally:
            del self.forward, self.original_forward


def rounded_to_fp8(ops: Any) -> Any:
    """A component's key map that also rounds what fp8-cast keeps in float8."""
    return dataclasses.replace(ops, mapping=(*ops.mapping, *QuantizationPolicy.fp8_cast().sd_ops.mapping))


def _quantized(builder: SingleGPUModelBuilder, dtype: torch.dtype) -> torch.nn.Module:
    """fp8-cast as ltx_pipelines' ledger builds it, with what is not float8 in ``dtype``."""
    ops, modules = rounded_to_fp8(builder.model_sd_ops), QuantizationPolicy.fp8_cast().module_ops
    builder = dataclasses.replace(builder, model_sd_ops=ops, module_ops=modules)
    module: torch.nn.Module = builder.build(device=torch.device("cpu"))
    for layer in module.modules():
        if isinstance(layer, torch.nn.Linear):
            del layer.forward, layer.original_forward
            layer.__class__ = UpcastLinear
    for parameter in module.parameters():
        if parameter.dtype != torch.float8_e4m3fn:
            parameter.data = parameter.data.to(dtype)
    return module


def loaded_weights(
    path: Path, loras: Loras, dtype: torch.dtype, quantization: str | None = None
) -> dict[str, torch.Tensor]:
    """Every tensor of a transformer as the reference loads it; float8 as its bytes."""
    side, config = Torch(), SafetensorsModelStateDictLoader().metadata(str(path))
    module = side.load("transformer", path, config, str(dtype).removeprefix("torch."), loras, quantization)
    fp8 = torch.float8_e4m3fn
    return {n: t.view(torch.uint8) if t.dtype == fp8 else t for n, t in module.state_dict().items()}


def decoded_in_slabs(latent: torch.Tensor, video_decoder: Any) -> torch.Tensor:
    """The whole clip, which ours decodes in slabs."""
    video: torch.Tensor = video_decoder(latent)
    return video


def encoded_in_slabs(video: torch.Tensor, video_encoder: Any) -> torch.Tensor:
    """The latent of the whole clip, which ours encodes in slabs."""
    latent: torch.Tensor = video_encoder(video)
    return latent


@contextlib.contextmanager
def filters_made_once() -> Iterator[None]:
    """While it lasts, equal resampling filters of a vocoder are one tensor. ltx-core makes each of its 400 while it
    builds the network on the meta device, for eight seconds, and then takes them from the checkpoint."""
    with mock.patch.object(vocoder, "kaiser_sinc_filter1d", functools.cache(vocoder.kaiser_sinc_filter1d)):
        yield


class Torch(Side):
    key, method = "reference", "forward"
    wide_functions: Mapping[str, Callable[..., Any]] = WIDENED
    wide_modules: Mapping[str, Callable[..., Any]] = WIDENED_MODULES
    containers = (torch.nn.Sequential, torch.nn.ModuleList)

    def is_array(self, value: Any) -> bool:
        return isinstance(value, torch.Tensor)

    def is_module(self, value: Any) -> bool:
        return isinstance(value, (torch.nn.Module, torch.device))

    def dtype(self, name: str) -> torch.dtype:
        dtype: torch.dtype = getattr(torch, name)
        return dtype

    def dtype_name(self, value: Any) -> str | None:
        return str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else None

    def to_numpy(self, value: torch.Tensor) -> Tensor:
        half = value.dtype in (torch.bfloat16, torch.float16)
        value = value.detach() if value.requires_grad else value  # each call of torch is counted, at a price
        values = value.float().numpy() if half else value.numpy().copy()
        return Tensor(values, str(value.dtype).removeprefix("torch."))

    def from_numpy(self, values: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
        if dtype == torch.float64:  # one copy that widens, where torch would make a second one
            return torch.from_numpy(values.astype(np.float64, order="C"))
        return torch.from_numpy(values.copy()).to(dtype)

    def load(
        self,
        component: str,
        path: CheckpointPath,
        config: dict[str, Any],
        dtype: str,
        loras: Loras = (),
        quantization: str | None = None,
    ) -> torch.nn.Module:
        """The component through the reference's own loader, which is lenient: that nothing is unset is checked here."""
        if component == "gemma":
            return with_weights(gemma_model(config), files_of(path)[0], self.dtype(dtype))
        configurator, key_map = BUILDERS[component](config)
        files = files_of(path)
        builder = SingleGPUModelBuilder(configurator, tuple(map(str, files)), model_sd_ops=in_file(key_map, *files))
        for file, strength in loras:
            builder = builder.lora(str(file), strength, LTXV_LORA_COMFY_RENAMING_MAP)
        with filters_made_once(), mock.patch.object(single_gpu_model_builder, "apply_loras", _apply_loras):
            if quantization:
                module = _quantized(builder, self.dtype(dtype))
            else:
                module = builder.build(device=torch.device("cpu"), dtype=self.dtype(dtype))
        unset = [name for name, tensor in module.state_dict(keep_vars=True).items() if tensor.is_meta]
        if unset:
            raise RuntimeError(f"the reference's {component} was left without {', '.join(unset)}")
        return module.eval()

    @contextlib.contextmanager
    def running(self, isolated: bool) -> Iterator[None]:
        torch.manual_seed(0)  # what the reference draws must repeat itself; ours is given what was recorded
        yield

    def random_state(self) -> Any:
        return torch.get_rng_state().numpy().tobytes()

    def set_random_state(self, state: Any) -> None:
        torch.set_rng_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))

    @contextlib.contextmanager
    def counted(self, count: Callable[[str, int], None]) -> Iterator[None]:
        with Counting(count):
            yield

    def named_modules(self, module: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
        yield from module.named_modules()

    def tensors(self, module: torch.nn.Module) -> dict[str, torch.Tensor]:
        """The tensors that a checkpoint holds of a module: its parameters and its persistent buffers."""
        return {name: t for name, t in module.state_dict(keep_vars=True).items() if t.is_floating_point()}

    def leaves(self, module: torch.nn.Module) -> list[str]:
        """Paths of the modules without children (not of empty lists): the denominator of coverage."""
        return [
            name
            for name, m in self.named_modules(module)
            if name and not any(m.children()) and type(m) not in self.containers
        ]

    def oracle(self, module: torch.nn.Module) -> torch.nn.Module:
        """The same weights, to the last bit, in float64."""
        return self.as_oracle(copy.deepcopy(module))

    def as_oracle(self, module: torch.nn.Module) -> torch.nn.Module:
        """The module itself, turned into float64."""
        oracle = module.double()
        for m in oracle.modules():
            if (name := type(m).__name__) in self.wide_modules:
                m.__class__ = type(name, (type(m),), {"forward": self.wide_modules[name]})
        return oracle

    @contextlib.contextmanager
    def widened(self) -> Iterator[None]:
        """While the oracle runs grafted: float64 in place of the reference's functions that compute in float32."""
        with contextlib.ExitStack() as undo:
            for place, replacement in self.wide_functions.items():
                undo.enter_context(mock.patch.object(*resolve(place), replacement))
            yield

    def influence(
        self,
        stage: Stage,
        oracle: dict[str, torch.nn.Module],
        case: Case,
        source: Trace,
        known: Mapping[str, float] = MappingProxyType({}),
    ) -> dict[str, float]:
        """Parameter → share of its elements that move a compared tensor in a float32 case; without those that are
        ``known`` to move whole.

        One grafted run with gradients: a parameter moves its own tap or the next tap's input, so nothing is diluted.
        """
        terms: list[torch.Tensor] = []
        generator = torch.Generator().manual_seed(0)

        def collect(values: Iterable[Any]) -> None:
            for value in values:
                if isinstance(value, torch.Tensor) and value.requires_grad:
                    terms.append((value * _randn(value.shape, generator=generator, dtype=value.dtype)).sum())

        parameters = {name: p for name, p in self.tensors(oracle[stage.main]).items() if known.get(name, 0.0) < 1.0}
        if not parameters:
            return {}
        with torch.enable_grad():
            for parameter in parameters.values():
                parameter.requires_grad_(True)
            session = Session(self, source, oracle=True, keeps="nothing")
            session.on_values = collect
            execute(self, stage, oracle, case, "float32", "float64", session)
            if terms:
                torch.autograd.backward(torch.stack(terms).sum())
        moved = {}
        for name, parameter in parameters.items():
            gradient = parameter.grad
            moved[name] = 0.0 if gradient is None else float((gradient != 0).double().mean())
            parameter.requires_grad_(False)
            parameter.grad = None
        return moved
