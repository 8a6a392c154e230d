"""A port in torch: see ``parity.sides.port``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from ..port import Port
from .components import Torch


class TorchPort(Port, Torch):
    """A side whose components are ``torch.nn.Module``. It can be the reference as well."""

    def parameters_of(self, module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
        return {name: tuple(t.shape) for name, t in module.state_dict(keep_vars=True).items() if t.is_floating_point()}

    def assign(self, module: torch.nn.Module, tensors: dict[str, torch.Tensor]) -> torch.nn.Module:
        for name, own in module.state_dict(keep_vars=True).items():
            if name in tensors:  # what it has of its own is declared
                own.data = tensors[name]
        return module.eval()

    def modules_of(self, module: torch.nn.Module) -> Iterator[tuple[str, Any]]:
        yield from module.named_modules()

    def tensors(self, module: torch.nn.Module) -> dict[str, torch.Tensor]:
        own = super().tensors(module)
        return {official: own[name] for name, official in self.official(module).items()}

    def oracle(self, module: torch.nn.Module) -> torch.nn.Module:
        oracle = super().oracle(module)
        self.also(module, oracle)
        return oracle
