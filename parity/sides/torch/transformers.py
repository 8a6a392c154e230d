"""Classes of the transformers library as a reference: text towers that ltx-core 1.0.0 does not run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from ltx2_mlx.loading.checkpoint import CheckpointPath

from ...tap.side import Loras
from ..loading import files_of
from .components import Torch, every_state, in_order, with_weights


def gemma4_model(config: dict[str, Any]) -> torch.nn.Module:
    """Gemma 4's text model, with every hidden state as its result."""
    from transformers import Gemma4UnifiedConfig
    from transformers.models.gemma4_unified import modeling_gemma4_unified

    whole: Any = Gemma4UnifiedConfig.from_dict(config)
    pad = whole.text_config.pad_token_id
    standing = [whole.image_token_id, whole.video_token_id, whole.audio_token_id]
    base = every_state(modeling_gemma4_unified, "Gemma4UnifiedTextModel")

    def forward(self: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        """As the whole model calls it (a test compares the two): what stands for an image is embedded as a pad."""
        return base.forward(
            self, torch.where(torch.isin(input_ids, torch.tensor(standing)), pad, input_ids), attention_mask
        )

    cls = type(base.__name__, (base,), {"forward": forward})
    with mock.patch.object(modeling_gemma4_unified, "set", in_order, create=True):  # it keeps its set of layer kinds
        model: torch.nn.Module = cls(whole.text_config)
    return model


class Transformers(Torch):
    """Components whose classes, tensors and arguments have our names.

    components: name → its module with the weights of a file (or folder), from the file's config and in a dtype.
    """

    components: dict[str, Callable[[Path, dict[str, Any], torch.dtype], torch.nn.Module]] = {  # noqa: RUF012
        "gemma": lambda path, config, dtype: with_weights(gemma4_model(config), path, dtype)
    }

    def load(
        self,
        component: str,
        path: CheckpointPath,
        config: dict[str, Any],
        dtype: str,
        loras: Loras = (),
        quantization: str | None = None,
    ) -> torch.nn.Module:
        if component not in self.components:
            raise RuntimeError(f"no class of transformers is declared for {component}")
        return self.components[component](files_of(path)[0], config, self.dtype(dtype)).eval()
