"""Our defaults: of arguments, and of keys that a checkpoint's config may leave out."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
from collections.abc import Sequence
from typing import Any

from ..declare.inputs import FIXTURES
from .mlx import MLX
from .values import compared


def arguments_of(step: str, module: str, name: str, arguments: Sequence[str]) -> dict[str, Any]:
    """The defaults of these arguments of a function, or of a class's method."""
    found: Any = functools.reduce(getattr, name.split("."), importlib.import_module(module))
    parameters = inspect.signature(found).parameters
    return compared(MLX(), step, {argument: parameters[argument].default for argument in arguments})


def constant(step: str, module: str, name: str) -> dict[str, Any]:
    """A constant, or the result of a function without arguments."""
    value = functools.reduce(getattr, name.split("."), importlib.import_module(module))
    return compared(MLX(), step, {"is": value() if callable(value) else value})


def keys_of(step: str, cls: str, keys: Sequence[str]) -> dict[str, Any]:
    """The values that ours takes for these keys where a config lacks them."""
    fields = {f.name: f for f in dataclasses.fields(getattr(importlib.import_module("ltx2_mlx.config"), cls))}
    return compared(MLX(), step, {key: fields[key].default for key in keys})


def between_streams(step: str, video: int, audio: int) -> dict[str, Any]:
    """What times are a part of where one stream attends to the other, by the ``max_pos`` of both."""
    product = importlib.import_module("ltx2_mlx")
    config = dict(product.read_checkpoint(FIXTURES / "tiny-2.3.safetensors").config)
    own = {"positional_embedding_max_pos": [video, 64, 64], "audio_positional_embedding_max_pos": [audio]}
    described = importlib.import_module("ltx2_mlx.config").TransformerConfig
    longest = described.from_metadata({"transformer": config["transformer"] | own}).cross_pe_max_pos
    return compared(MLX(), step, dict.fromkeys(("video", "audio"), longest))
