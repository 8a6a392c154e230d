"""The reference's defaults: of arguments, and of keys that a checkpoint's config may leave out."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Sequence
from typing import Any

import torch

from ltx2_mlx.loading.checkpoint import read_checkpoint

from ...declare.inputs import FIXTURES
from ..values import compared
from .components import BUILDERS, Torch, filters_made_once


def arguments_of(step: str, module: str, name: str, arguments: Sequence[str]) -> dict[str, Any]:
    """The defaults of these arguments of a function, or of a class's method."""
    parts = name.replace("__call__", "forward").split(".")
    found: Any = functools.reduce(_attribute, parts, importlib.import_module(module))
    parameters = inspect.signature(found).parameters
    return compared(Torch(), step, {argument: parameters[argument].default for argument in arguments})


def _attribute(owner: Any, name: str) -> Any:
    """A class that is no module has no forward."""
    return getattr(owner, name if hasattr(owner, name) else "__call__")


def constant(step: str, module: str, name: str) -> dict[str, Any]:
    """A constant, or the result of a function without arguments."""
    value = functools.reduce(getattr, name.split("."), importlib.import_module(module))
    return compared(Torch(), step, {"is": value() if callable(value) else value})


def keys_of(step: str, component: str, keys: Sequence[str]) -> dict[str, Any]:
    """The values that the reference takes for these keys where a config lacks them."""
    asked: dict[str, Any] = {}
    for version in ("2.0", "2.3"):  # networks of different kinds ask for different keys
        config = read_checkpoint(FIXTURES / f"tiny-{version}.safetensors").config
        configurator: Any = BUILDERS[component](config)[0]
        with torch.device("meta"), filters_made_once():
            configurator.from_config(_Asked.of(config, asked))
    return compared(Torch(), step, {key: asked[key] for key in keys})


def between_streams(step: str, video: int, audio: int) -> dict[str, Any]:
    """What times are a part of where one stream attends to the other, by the ``max_pos`` of both."""
    config = dict(read_checkpoint(FIXTURES / "tiny-2.3.safetensors").config)
    own = {"positional_embedding_max_pos": [video, 64, 64], "audio_positional_embedding_max_pos": [audio]}
    config["transformer"] = config["transformer"] | own
    configurator: Any = BUILDERS["transformer"](config)[0]
    with torch.device("meta"):
        model = configurator.from_config(config)
    parts = {name: getattr(model, f"{name}_args_preprocessor").cross_pe_max_pos for name in ("video", "audio")}
    return compared(Torch(), step, parts)


class _Asked(dict[str, Any]):
    """A config that notes the default with which each of its keys is asked for."""

    asked: dict[str, Any]

    @classmethod
    def of(cls, config: dict[str, Any], asked: dict[str, Any]) -> _Asked:
        made = cls({k: cls.of(v, asked) if isinstance(v, dict) else v for k, v in config.items()})
        made.asked = asked
        return made

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.setdefault(key, default)
        return super().get(key, default)
