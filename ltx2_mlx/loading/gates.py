"""Static gates of a diffusion decoder: a number for each row of three of a block's layers, which older files hold.

The network has none. A gate is multiplied into its layer as that is read, in float32, and rounded to the file's dtype.
Source: ``ltx_core.model.video_vae.model_configurator`` 1.2.0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import mlx.core as mx

from ..errors import WeightsError
from .checkpoint import Checkpoint

_GATES = {"attn.proj": "gate_msa", "mlp.w_down": "gate_mlp", "context_proj": "gate_ctx"}
_GATED = re.compile(r"(.*\bdiff_blocks\.\d+\.)(attn\.proj|mlp\.w_down|context_proj)\.(?:weight|bias)")


def gate_key(checkpoint: Checkpoint, key: str) -> str | None:
    """The key of the gate that belongs to the weight or bias of this key, if the file has one."""
    found = _GATED.fullmatch(key)
    gate = f"{found[1]}{_GATES[found[2]]}" if found else ""
    return gate if gate in checkpoint.tensors else None


def gates_of(keys: Mapping[str, str], checkpoint: Checkpoint) -> set[str]:
    """Paths of the gates that are multiplied into one of these parameters. Raises WeightsError for one that does not
    fit. keys: parameter path → key."""
    paths, found = {key: path for path, key in keys.items()}, set()
    for key in keys.values():
        gate = gate_key(checkpoint, key)
        if gate is None:
            continue
        info, rows = checkpoint.tensors[gate], checkpoint.tensors[key].shape[:1]
        if info.shape != rows or info.dtype not in ("BF16", "F16", "F32"):
            raise WeightsError(
                f"{checkpoint.path}: {gate} is {info.dtype} {info.shape}, expected a number for each of {rows}"
            )
        found.add(paths[gate])
    return found


def folded(array: mx.array, gate: mx.array) -> mx.array:
    """A weight ``(rows, columns)``, or a bias ``(rows,)``, with each row times its gate."""
    rows = gate.astype(mx.float32).reshape(-1, *(1,) * (array.ndim - 1))
    return (array.astype(mx.float32) * rows).astype(array.dtype)
