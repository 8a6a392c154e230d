"""LoRA files fused into a transformer's weights while they load: W + Σ (B·strength)·A.

Source: ``ltx_core.loader.fuse_loras``. A file holds pairs ``diffusion_model.{path}.lora_A.weight`` ``(rank, in)`` and
``diffusion_model.{path}.lora_B.weight`` ``(out, rank)``, and nothing else, so no alpha.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import mlx.core as mx

from ..errors import ConfigError, WeightsError
from .checkpoint import read_checkpoint
from .quantization import FP8, from_fp8, quantize_weight_to_fp8_per_tensor, to_fp8

PREFIX = "diffusion_model."
A, B = ".lora_A.weight", ".lora_B.weight"
_EXPECTED = f"A LoRA of LTX-2 holds pairs {PREFIX}<layer>{A} and {PREFIX}<layer>{B}"


@dataclass(frozen=True)
class LoraPathStrength:
    """A LoRA file, and the factor of its change: 1 is as trained."""

    path: str | Path
    strength: float = 1.0


@dataclass(frozen=True)
class LoraMetadata:
    """The metadata of a LoRA file.

    reference_downscale_factor: how many times smaller an IC-LoRA's reference video is than the video to be made.
    """

    reference_downscale_factor: int = 1


@dataclass(frozen=True)
class LoraReport:
    """The number of a file's pairs that fit a layer of the network, and the names of those that fit none."""

    path: Path
    strength: float
    pairs: int
    matched: int
    unmatched: tuple[str, ...]

    def __str__(self) -> str:
        line = f"LoRA {self.path} × {self.strength:g}: {self.matched} of {self.pairs} pairs fused"
        return f"{line}; the network has no layer for {_some(self.unmatched)}" if self.unmatched else line


@dataclass(frozen=True)
class Lora:
    """An open LoRA file: layer → its lazy (A, B)."""

    path: Path
    strength: float
    pairs: dict[str, tuple[mx.array, mx.array]]


def lora_metadata(path: str | Path) -> LoraMetadata:
    """Read a LoRA file's metadata. Source: ``ltx_pipelines.ic_lora``. Raises CheckpointError in one line."""
    text = read_checkpoint(path).metadata.get("reference_downscale_factor", "1")
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"{path}: reference_downscale_factor is {text!r}, expected a whole number from 1 on")
    return LoraMetadata(int(text))


def read_lora(lora: LoraPathStrength) -> Lora:
    """Open a LoRA file; tensors are read when they are first used.

    Raises WeightsError for keys other than A and B (alpha, dora_scale and others would change the result), for an
    incomplete pair, and for an A and B that do not fit each other.
    """
    header = read_checkpoint(lora.path)
    if other := [key for key in header.tensors if not key.endswith((A, B))]:
        raise WeightsError(f"{header.path}: it has keys of another kind of adapter: {_some(other)}. {_EXPECTED}")
    layers = dict.fromkeys(key.removesuffix(A).removesuffix(B) for key in header.tensors)
    if half := [name + end for name in layers for end in (A, B) if name + end not in header.tensors]:
        raise WeightsError(f"{header.path}: a pair is incomplete, {_some(half)} is missing. {_EXPECTED}")
    for name in layers:
        a, b = header.tensors[name + A], header.tensors[name + B]
        if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1]:
            raise WeightsError(
                f"{header.path}: {name}: A is {a.shape} and B {b.shape}, expected (rank, in) and (out, rank)"
            )
        if wrong := {a.dtype, b.dtype} - {"BF16", "F16", "F32"} or {a.dtype} - {b.dtype}:
            raise WeightsError(f"{header.path}: {name}: {'/'.join(sorted(wrong))}, expected BF16, F16 or F32 for both")
    arrays = header.arrays()
    pairs = {name.removeprefix(PREFIX): (arrays[name + A], arrays[name + B]) for name in layers}
    if len(pairs) != len(layers):
        raise WeightsError(f"{header.path}: a layer is given both with and without {PREFIX}. {_EXPECTED}")
    return Lora(header.path, float(lora.strength), pairs)


def report_on(lora: Lora, weights: Mapping[str, tuple[int, ...]]) -> LoraReport:
    """Match a LoRA with a network that has these parameters (path → shape).

    Raises WeightsError when no pair fits, or when a pair's shape is not its layer's.
    """
    unmatched = tuple(name for name in lora.pairs if f"{name}.weight" not in weights)
    if len(unmatched) == len(lora.pairs):
        raise WeightsError(
            f"{lora.path}: none of {len(lora.pairs)} pairs belongs to a layer of this transformer: {_some(unmatched)}. "
            f"{_EXPECTED}, and <layer> is one like {next(iter(weights)).removesuffix('.weight')}"
        )
    for name, (a, b) in lora.pairs.items():
        shape, product = weights.get(f"{name}.weight"), (b.shape[0], a.shape[1])
        if shape is not None and shape != product:
            found = f"B·A is {product}, the weight {shape}"
            raise WeightsError(f"{lora.path}: {name}: {found}. This LoRA was made for another model")
    return LoraReport(lora.path, lora.strength, len(lora.pairs), len(lora.pairs) - len(unmatched), unmatched)


def prepare_deltas(loras: tuple[Lora, ...], name: str, dtype: mx.Dtype) -> mx.array | None:
    """The summed change ``(out, in)`` of a parameter in ``dtype``, None where no LoRA has a pair for it.

    Each product is formed in its file's dtype and then cast; their sum is rounded once.
    """
    layer = name.removesuffix(".weight")
    pairs = [(lora.pairs[layer], lora.strength) for lora in loras if layer in lora.pairs and layer != name]
    deltas = [(_scaled(b, strength) @ a).astype(dtype) for (a, b), strength in pairs]
    if len(deltas) < 2:
        return deltas[0] if deltas else None
    return reduce(mx.add, (delta.astype(mx.float32) for delta in deltas)).astype(dtype)


def _scaled(b: mx.array, strength: float) -> mx.array:
    # The factor is float32 whatever B is: MLX would round 0.7 to bfloat16 first (tap: every fused weight)
    return (b.astype(mx.float32) * strength).astype(b.dtype)


def fuse(loras: tuple[Lora, ...], name: str, weight: mx.array, dtype: mx.Dtype) -> mx.array:
    """The parameter ``name`` with every LoRA added, in ``dtype``. Lazy: nothing is computed before it is used.

    weight: of any floating dtype (the reference takes only bfloat16 and float8). Where ``dtype`` is float8 it is
    float8, the sum is formed in bfloat16 and rounded, as the reference does on a CPU (on CUDA it rounds at random).
    """
    delta = prepare_deltas(loras, name, mx.bfloat16 if dtype == FP8 else dtype)
    if delta is None:
        return weight if weight.dtype == dtype else weight.astype(dtype)
    if dtype == FP8:
        return to_fp8(delta + from_fp8(weight, mx.bfloat16))
    return (delta + weight).astype(dtype)


def fuse_scaled(
    loras: tuple[Lora, ...], name: str, weight: mx.array, weight_scale: mx.array
) -> tuple[mx.array, mx.array]:
    """Add every LoRA to a float8 weight with a scale, in float32; bytes and scale change only where one is added."""
    delta = prepare_deltas(loras, name, mx.bfloat16)
    if delta is None:
        return weight, weight_scale
    return quantize_weight_to_fp8_per_tensor(from_fp8(weight, mx.float32) * weight_scale + delta.astype(mx.float32))


def _some(names: Sequence[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")
