"""The reference's pipelines, run as they are on a CPU with the tiny files, in float32 or bfloat16.

Nothing in the packages is changed; while a run lasts, names in them stand for something else. Why each:

- ``torch`` in the pipelines' modules: ``cuda.synchronize`` raises without CUDA, and the pipelines' one dtype, bfloat16,
  is written there as a constant.
- ``gc`` in their helpers: ten collections of all that torch and transformers hold take longer than a run.
- Gemma's sizes: the reference has the 12B model's as a constant and never reads the folder's ``config.json``.
- Gemma's buffers and its image tower's names: the reference was written for transformers 4.
- ``apply_loras`` in float32: it leaves the weights that no LoRA touches in the dtype of the file.
- The second-order loop in float32: its dtype is a default argument that the pipeline does not pass.
- The vocoder's filters: see ``filters_made_once``.
- Convolutions in bfloat16: without AVX-512 torch has none but scalar loops, 30 times slower than all the rest. They are
  done in float32 and rounded once, which is what the fast kernels do.

A *twin* is a second run in bfloat16 whose matrix products are done so as well, and in which a convolution's bias is
added after rounding: how far it is from the first is what the reference reaches against itself when no more than the
order of its sums changes.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import torch
import transformers

from ...declare.model import Files, Pipeline
from ...tap.watch import Watched, record
from .bars import helpers
from .components import Torch, filters_made_once

from ltx_core.loader import LTXV_LORA_COMFY_RENAMING_MAP, LoraPathStrengthAndSDOps, single_gpu_model_builder  # isort: skip
from ltx_core.loader.module_ops import ModuleOps  # isort: skip
from ltx_core.text_encoders.gemma.config import GEMMA3_CONFIG_FOR_LTX, Gemma3RopeScaling  # isort: skip
from ltx_core.text_encoders.gemma.embeddings_processor import EmbeddingsProcessor  # isort: skip
from ltx_core.text_encoders.gemma.encoders.base_encoder import GemmaTextEncoder  # isort: skip
from ltx_pipelines.utils import model_ledger  # isort: skip


def lora(path: str, strength: float) -> LoraPathStrengthAndSDOps:
    return LoraPathStrengthAndSDOps(path, strength, LTXV_LORA_COMFY_RENAMING_MAP)


def run(pipeline: Pipeline, dtype: str, files: Files, twin: bool = False, recording: Watched | None = None) -> Watched:
    """One run, into ``recording`` or a new one. The reference must not raise."""
    side, recording, start = Torch(), recording or Watched(), time.monotonic()
    module = importlib.import_module(f"ltx_pipelines.{pipeline.module}")

    def call() -> Any:
        def arguments(of: Callable[[Files], dict[str, Any]]) -> Any:
            return side.materialise(of(files), pipeline, dtype, dtype)

        return getattr(module, pipeline.cls)(**arguments(pipeline.init))(**arguments(pipeline.call))

    with (
        patched(module, side.dtype(dtype), files, twin),
        made_once(twin, pipeline.tokens),
        noise_recorded(recording),
        torch.inference_mode(),
    ):
        record(side, pipeline, call, recording)
    recording.seconds = time.monotonic() - start
    return recording


# Models of this process, and what its text encoders answered. They are functions of files and arguments alone.
_models: dict[Any, Any] = {}
_texts: dict[Any, Any] = {}


@contextlib.contextmanager
def made_once(twin: bool, tokens: int) -> Iterator[None]:
    """While it lasts, a model is built once for the same files in this process, and the same model encodes a prompt
    once: pipelines, and runs of one of them, have most of both in common.

    twin: with the products of a twin run, whose encodings are others. tokens: of every prompt.
    """
    builder, encoder, processor = single_gpu_model_builder.SingleGPUModelBuilder, GemmaTextEncoder, EmbeddingsProcessor
    build, encode, process = builder.build, encoder.encode, processor.process_hidden_states

    def build_once(self: Any, **kwargs: Any) -> Any:
        loras = tuple((_state(lora.path), lora.strength) for lora in self.loras)
        paths = self.model_path if isinstance(self.model_path, tuple) else (self.model_path,)
        key = (self.model_class_configurator, *map(_state, paths), loras, str(kwargs.get("dtype")))
        if key not in _models:
            _models[key] = build(self, **kwargs)
        return _models[key]

    def encode_once(self: Any, text: str) -> Any:
        self.tokenizer.max_length = tokens
        if (key := (id(self), text, twin, tokens)) not in _texts:
            _texts[key] = encode(self, text)
        return _texts[key]

    @functools.wraps(process)  # the names of its arguments are looked up
    def process_once(self: Any, hidden_states: Any, attention_mask: Any, **other: Any) -> Any:
        if (key := (id(self), id(hidden_states), id(attention_mask), *other.items())) not in _texts:
            _texts[key] = process(self, hidden_states, attention_mask, **other)
        return _texts[key]

    with (
        mock.patch.object(builder, "build", build_once),
        mock.patch.object(encoder, "encode", encode_once),
        mock.patch.object(processor, "process_hidden_states", process_once),
    ):
        yield


def _state(path: str) -> tuple[str, int, int]:
    """A file as it is now."""
    state = Path(path).stat()
    return str(path), state.st_size, state.st_mtime_ns


@contextlib.contextmanager
def noise_recorded(into: Watched) -> Iterator[None]:
    original = torch.randn

    def randn(*args: Any, **kwargs: Any) -> torch.Tensor:
        noise = original(*args, **kwargs)
        into.draw(kwargs.get("generator"), Torch().to_numpy(noise))
        return noise

    with mock.patch.object(torch, "randn", randn):
        yield


@contextlib.contextmanager
def patched(module: ModuleType, dtype: torch.dtype, files: Files, twin: bool) -> Iterator[None]:
    """The reference with a pipeline's ``module`` fit for a run in ``dtype`` on the CPU."""
    with contextlib.ExitStack() as undo:

        def replace(owner: Any, **names: Any) -> None:
            undo.enter_context(mock.patch.multiple(owner, **names))

        undo.enter_context(filters_made_once())
        for user in (module, helpers):
            replace(user, torch=_torch(dtype))
        replace(helpers, gc=SimpleNamespace(collect=lambda: None))
        _patch_gemma(replace, files)
        functional = torch.nn.functional
        for name in CONVOLUTIONS:
            once = _rounded_once(getattr(functional, name))
            replace(functional, **{name: _bias_apart(once) if twin else once})
        for name in PRODUCTS if twin else ():
            replace(functional, **{name: _rounded_once(getattr(functional, name))})
        if dtype != torch.bfloat16:
            replace(single_gpu_model_builder, apply_loras=_all_in_one_dtype(single_gpu_model_builder.apply_loras))
            if loop := getattr(module, "res2s_audio_video_denoising_loop", None):
                replace(module, res2s_audio_video_denoising_loop=lambda **kw: loop(**kw, model_dtype=dtype))
        yield


def _torch(dtype: torch.dtype) -> ModuleType:
    """``torch`` as a pipeline's module sees it."""
    cuda = SimpleNamespace(synchronize=lambda: None, empty_cache=lambda: None)
    proxy = ModuleType("torch")
    vars(proxy).update(__getattr__=lambda name: getattr(torch, name), bfloat16=dtype, cuda=cuda)
    return proxy


CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "conv_transpose1d")
PRODUCTS = ("linear", "scaled_dot_product_attention")


def _rounded_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` in float32 for bfloat16 arguments, its result rounded."""

    def widened(value: Any) -> Any:
        half = isinstance(value, torch.Tensor) and value.dtype == torch.bfloat16
        return value.float() if half else value

    def run(x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if x.dtype != torch.bfloat16:
            return function(x, *args, **kwargs)
        wide = function(x.float(), *map(widened, args), **{key: widened(value) for key, value in kwargs.items()})
        return wide.to(x.dtype)

    return run


def _bias_apart(convolution: Callable[..., Any]) -> Callable[..., Any]:
    """A convolution whose result is rounded before its bias is added, as kernels without a bias of their own do."""

    def run(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        result = convolution(x, weight, None, *args, **kwargs)
        return result if bias is None else result + bias.reshape(-1, *[1] * (result.ndim - 2))

    return run


def _all_in_one_dtype(apply_loras: Callable[..., Any]) -> Callable[..., Any]:
    return lambda **kwargs: apply_loras(**kwargs | {"destination_sd": None})


def _patch_gemma(replace: Callable[..., None], files: Files) -> None:
    """The folder's sizes, and what transformers 5 wants."""
    config = json.loads((files.gemma / "config.json").read_text())
    for section in ("text_config", "vision_config"):
        owner = getattr(GEMMA3_CONFIG_FOR_LTX, section)
        values = {key: config[section][key] for key in vars(owner)}
        if "rope_scaling" in values:
            values["rope_scaling"] = Gemma3RopeScaling(**values["rope_scaling"])
        replace(owner, **values)
    tokens = ("boi_token_index", "eoi_token_index", "image_token_index", "mm_tokens_per_image")
    replace(GEMMA3_CONFIG_FOR_LTX, **{key: config[key] for key in tokens})
    if int(transformers.__version__.split(".")[0]) >= 5:
        fill = ModuleOps("GemmaBuffers", model_ledger.GEMMA_MODEL_OPS.matcher, _fill_buffers)
        keys = model_ledger.GEMMA_LLM_KEY_OPS.with_replacement("vision_tower.vision_model.", "vision_tower.")
        replace(model_ledger, GEMMA_MODEL_OPS=fill, GEMMA_LLM_KEY_OPS=keys)


def _fill_buffers(module: torch.nn.Module) -> torch.nn.Module:
    """The buffers that no file holds (rotary frequencies, position ids, the embedding's scale), from a model that was
    made on the CPU."""
    model: Any = module.model
    made = type(model)(model.config)
    for name, buffer in made.named_buffers():
        owner, _, leaf = name.rpartition(".")
        model.get_submodule(owner).register_buffer(leaf, buffer, persistent=False)
    return module
