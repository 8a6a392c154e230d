"""Classes of the transformers library as a reference: text towers that ltx-core 1.0.0 does not run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ...tap.side import Loras
from .components import Torch


class Transformers(Torch):
    """Components whose classes, tensors and arguments have our names.

    components: name → its module with the weights of a file (or folder), from the file's config and in a dtype.
    """

    components: dict[str, Callable[[Path, dict[str, Any], torch.dtype], torch.nn.Module]] = {}  # noqa: RUF012

    def load(
        self,
        component: str,
        path: Path,
        config: dict[str, Any],
        dtype: str,
        loras: Loras = (),
        quantization: str | None = None,
    ) -> torch.nn.Module:
        if component not in self.components:
            raise RuntimeError(f"no class of transformers is declared for {component}")
        return self.components[component](path, config, self.dtype(dtype)).eval()
