"""LoRA files fused into a transformer's weights while they load: W + Σ (B·strength)·A.

Source: ``ltx_core.loader.fuse_loras``. A file holds pairs, A ``(rank, in)`` and B ``(out, rank)``, and for some an α:
their change is B·A·α/rank. Trainers spell the same pairs in several ways; whatever spells a pair of a layer is read,
and what is no pair is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path

import mlx.core as mx
import numpy as np

from ..config.reading import cut
from ..distributed.table import Part
from ..errors import ConfigError, InputError, WeightsError
from ..nn.finite import all_finite
from .header import Arrays, Tensors, read_header
from .quantization import FP8, from_fp8, nan_for_infinity, quantize_weight_to_fp8_per_tensor, to_fp8

PREFIX = "diffusion_model."
A, B = ".lora_A.weight", ".lora_B.weight"
_EXPECTED = f"A LoRA of LTX-2 holds pairs {PREFIX}<layer>{A} and {PREFIX}<layer>{B}"
STRONGEST = 100.0
# What a layer's name may begin with, one after another.
_WRAPPERS = (PREFIX, "transformer.", "model.", "base_model.", "lora_unet_", "lora_transformer_", "diffusion_model_")
# The endings of A, B and α: of ltx-core and PEFT, of kohya's and musubi's trainers, of older diffusers.
_PARTS = {
    "A": re.compile(r"[._]lora(_[Aa]|_down|\.down|_linear_layer\.down)(\.(?!weight$)[\w-]+)*(\.weight)?$"),
    "B": re.compile(r"[._]lora(_[Bb]|_up|\.up|_linear_layer\.up)(\.(?!weight$)[\w-]+)*(\.weight)?$"),
    "alpha": re.compile(r"[._](lora_)?alpha$"),
}
_BLOCK = re.compile(r"(?<![A-Za-z0-9])transformer_blocks[._][0-9]+[._]")
_OTHERS = (  # what other adapters' keys have in them, and their names
    (r"dora_scale|lora_magnitude", "DoRA"),
    (r"lokr_", "LoKr"),
    (r"hada_|loha_", "LoHa"),
    (r"(^|[._])b?oft_", "OFT"),
    (r"glora|\.[ab][12]\.weight$", "GLoRA"),
    (r"lora_mid", "LoCon with a middle"),
    (r"on_input|ia3_", "(IA)³"),
    (r"\.(diff|diff_b|set_weight|reshape_weight)$", "full differences of weights"),
    (r"[._][wb]_norm$", "LyCORIS norms"),
    (r"lora_embedding_|lora_[AB]\S*\.bias$|lora_(up|down)\.bias$", "PEFT with embeddings or biases"),
)
_TEXT_ENCODER = re.compile(
    r"^(lora_te\d?[._]|text_encoders?[._]|(base_model\.model\.)?(language_model|text_model)\.|te\d?[._])"
)


@dataclass(frozen=True)
class LoraPathStrength:
    """A LoRA file, and the factor of its change: 1 is as trained. Raises InputError for one that makes no sense."""

    path: str | Path
    strength: float = 1.0

    def __post_init__(self) -> None:
        if not -STRONGEST <= self.strength <= STRONGEST:  # NaN as well
            limits = f"{-STRONGEST:g} to {STRONGEST:g}; 1 is as trained"
            raise InputError(f"{self.path}: the strength is {self.strength:g}, expected {limits}")


@dataclass(frozen=True)
class LoraMetadata:
    """The metadata of a LoRA file.

    reference_downscale_factor: how many times smaller an IC-LoRA's reference video is than the video to be made.
    """

    reference_downscale_factor: int = 1


@dataclass(frozen=True)
class LoraReport:
    """The number of a file's pairs that fit a layer of the network, and the names of those that fit none.

    idle: not one weight is changed: A, B, α or the strength is zero everywhere.
    """

    path: Path
    strength: float
    pairs: int
    matched: int
    unmatched: tuple[str, ...]
    idle: bool = False

    @property
    def note(self) -> str:
        """What a user should know, "" where there is nothing."""
        notes = ["it changes nothing: its weights or its strength are zero"] if self.idle else []
        notes += [f"the network has no layer for {_some(self.unmatched)}"] if self.unmatched else []
        return "; ".join(notes)

    def __str__(self) -> str:
        line = f"LoRA {self.path} × {self.strength:g}: {self.matched} of {self.pairs} pairs fused"
        return f"{line}; {self.note}" if self.note else line


class Pairs(Mapping[str, tuple[mx.array, mx.array]]):
    """Layer → its lazy (A, B), read when it is used and not kept. keys: layer → the keys of both in the file."""

    def __init__(self, arrays: Arrays, keys: Mapping[str, tuple[str, str]]):
        self.arrays, self.keys_of = arrays, keys

    def start(self, layers: Iterable[str]) -> None:
        """Begin to read the pairs of those of ``layers`` that have one."""
        self.arrays.start(key for layer in layers for key in self.keys_of.get(layer, ()))

    def shapes(self, layer: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        a, b = (self.arrays.tensors[key].shape for key in self.keys_of[layer])
        return a, b

    def renamed(self, names: Mapping[str, str]) -> Pairs:
        """The pairs by other names. names: the new one → the old one."""
        return Pairs(self.arrays, {new: self.keys_of[old] for new, old in names.items()})

    def cut(self, parts: Mapping[str, Part]) -> Pairs:
        """The pairs with parts of their arrays alone. parts: by the keys in the file."""
        return Pairs(Arrays(self.arrays.tensors, self.arrays.stream, parts), self.keys_of)

    def __getitem__(self, layer: str) -> tuple[mx.array, mx.array]:
        a, b = self.keys_of[layer]
        return self.arrays[a], self.arrays[b]

    def __contains__(self, layer: object) -> bool:
        return layer in self.keys_of

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys_of)

    def __len__(self) -> int:
        return len(self.keys_of)


@dataclass(frozen=True)
class Lora:
    """An open LoRA file: its pairs, and layer → α/rank where it is not 1.

    From ``read_lora`` the layers have the file's names, from ``fitted_to`` the network's.
    """

    path: Path
    strength: float
    pairs: Pairs
    scales: dict[str, float] = field(default_factory=dict)


def lora_metadata(path: str | Path) -> LoraMetadata:
    """Read a LoRA file's metadata. Source: ``ltx_pipelines.ic_lora``. Raises CheckpointError in one line.

    Trainers put words in front of the name (``ss_``), and write whole numbers as 2.0 too.
    """
    metadata = read_header(Path(path))[0]
    found = {
        k: v for k, v in metadata.items() if re.search(r"(^|_)reference_(downscale(_factor)?|spatial_scale_factor)$", k)
    }
    factors = {}
    for key, text in found.items():
        if not re.fullmatch(r"[0-9]{1,4}(\.0+)?", text) or float(text) < 1:
            raise ConfigError(f"{path}: {key} is {cut(repr(text))}, expected a whole number from 1 on")
        factors[int(float(text))] = key
    if len(factors) > 1:
        said = " and ".join(f"{key} is {factor}" for factor, key in factors.items())
        raise ConfigError(f"{path}: {said}, expected one factor")
    return LoraMetadata(next(iter(factors), 1))


def read_lora(lora: LoraPathStrength, stream: mx.Stream | None = None) -> Lora:
    """Open a LoRA file; tensors are read when they are used, by ``stream``.

    Raises WeightsError for keys that are neither A, B nor α (dora_scale and others would change the result), for an
    incomplete pair, and for an A and B that do not fit each other.
    """
    path = Path(lora.path)
    tensors = read_header(path)[1]
    layers = _layers(path, tensors)
    pairs, scales, arrays = {}, {}, Arrays(tensors, stream)
    for name, parts in layers.items():
        _check_pair(path, name, tensors, parts)
        pairs[name] = parts["A"], parts["B"]
        if "alpha" in parts:
            alpha = float(np.array(arrays[parts["alpha"]].astype(mx.float32).reshape(())))
            if not math.isfinite(alpha) or abs(alpha) > 1e6:
                raise WeightsError(f"{path}: {cut(parts['alpha'])} is {alpha:g}, expected a number near the rank")
            scales[name] = alpha / tensors[parts["A"]].shape[0]
    return Lora(path, float(lora.strength), Pairs(arrays, pairs), scales)


def _layers(path: Path, tensors: Tensors) -> dict[str, dict[str, str]]:
    """Layer, by the file's name → its keys: A, B and where there is one alpha."""
    layers: dict[str, dict[str, str]] = {}
    for key in tensors:
        if kind := next((said for pattern, said in _OTHERS if re.search(pattern, key)), None):
            raise WeightsError(f"{path}: it has keys of another kind of adapter ({kind}): {cut(key)}. {_EXPECTED}")
        if _TEXT_ENCODER.search(key):
            raise WeightsError(
                f"{path}: {cut(key)} is for a text encoder, which LoRAs of LTX-2 do not change. {_EXPECTED}"
            )
    other = []
    for key in tensors:
        part, match = next(((p, m) for p, pattern in _PARTS.items() if (m := pattern.search(key))), ("", None))
        if match is None:
            other.append(key)
            continue
        parts = layers.setdefault(key[: match.start()], {})
        if part in parts:
            raise WeightsError(f"{path}: {cut(parts[part])} and {cut(key)} are the same twice. {_EXPECTED}")
        parts[part] = key
    if other and not any({"A", "B"} & {*parts} for parts in layers.values()):
        raise WeightsError(f"{path}: it holds no pairs but {_some(other)}: a model, not a LoRA? {_EXPECTED}")
    if other:
        raise WeightsError(f"{path}: it has keys of another kind of adapter: {_some(other)}. {_EXPECTED}")
    if not layers:
        raise WeightsError(f"{path}: it holds no tensors. {_EXPECTED}")
    half = [(name, part) for name, parts in layers.items() for part in ("A", "B") if part not in parts]
    if half:
        missing = [f"{name}.lora_{part}.weight" for name, part in half]
        raise WeightsError(f"{path}: a pair is incomplete, {_some(missing)} is missing. {_EXPECTED}")
    return layers


def _check_pair(path: Path, name: str, tensors: Tensors, parts: Mapping[str, str]) -> None:
    a, b = tensors[parts["A"]], tensors[parts["B"]]
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1] or 0 in (*a.shape, *b.shape):
        raise WeightsError(f"{path}: {cut(name)}: A is {a.shape} and B {b.shape}, expected (rank, in) and (out, rank)")
    if {a.dtype, b.dtype} - {"BF16", "F16", "F32"} or a.dtype != b.dtype:
        raise WeightsError(f"{path}: {cut(name)}: A is {a.dtype} and B {b.dtype}, expected BF16, F16 or F32 for both")
    if "alpha" in parts:
        alpha = tensors[parts["alpha"]]
        numbers = alpha.dtype in ("BF16", "F16", "F32", "F64", "I32", "I64")
        if math.prod(alpha.shape) != 1 or not numbers:
            raise WeightsError(f"{path}: {cut(parts['alpha'])} is {alpha.dtype} {alpha.shape}, expected one number")


def _wrappers(names: Iterable[str]) -> set[str]:
    """What trainers put in front of a layer's name, and what this file has in front of its blocks'."""
    found = {name[: match.start()] for name in names if (match := _BLOCK.search(name))}
    return {wrapper for wrapper in (*_WRAPPERS, *found) if wrapper and "connector" not in wrapper}


def _bare(name: str, wrappers: set[str]) -> str:
    """A layer's name without what is put in front of it."""
    while wrapper := next((wrapper for wrapper in wrappers if name.startswith(wrapper)), ""):
        name = name.removeprefix(wrapper)
    return name


def fitted_to(lora: Lora, weights: Mapping[str, tuple[int, ...]]) -> tuple[Lora, LoraReport]:
    """A LoRA with the layers' names of a network that has these parameters (path → shape), and what was matched.

    Raises WeightsError when no pair fits, when two are of one layer, or when a pair's shape is not its layer's.
    """
    paths = {name.removesuffix(".weight") for name, shape in weights.items() if name.endswith(".weight")}
    by_underscores: dict[str, list[str]] = {}
    for path in sorted(paths):
        by_underscores.setdefault(path.replace(".", "_"), []).append(path)
    names: dict[str, str] = {}  # the network's → the file's
    unmatched, wrappers = [], _wrappers(lora.pairs)
    for name in lora.pairs:
        bare = _bare(name, wrappers)
        found = [bare] if bare in paths else by_underscores.get(bare.replace(".", "_"), [])
        if len(found) != 1:
            unmatched.append(bare)
        elif found[0] in names:
            raise WeightsError(
                f"{lora.path}: a layer is given twice, both with and without {PREFIX} or in two spellings: "
                f"{cut(names[found[0]])} and {cut(name)}. {_EXPECTED}"
            )
        else:
            names[found[0]] = name
    if not names:
        raise WeightsError(
            f"{lora.path}: none of {len(lora.pairs)} pairs belongs to a layer of this transformer: {_some(unmatched)}. "
            f"{_EXPECTED}, and <layer> is one like {next(iter(sorted(paths)), 'none')}"
        )
    for path, name in names.items():
        a, b = lora.pairs.shapes(name)
        shape, product = weights[f"{path}.weight"], (b[0], a[1])
        if shape != product:
            found_here = f"B·A is {product}, the weight {shape}"
            raise WeightsError(f"{lora.path}: {path}: {found_here}. This LoRA was made for another model")
    pairs = lora.pairs.renamed(names)
    scales = {path: lora.scales[name] for path, name in names.items() if name in lora.scales}
    fitted = replace(lora, pairs=pairs, scales=scales)
    report = LoraReport(lora.path, lora.strength, len(lora.pairs), len(names), tuple(unmatched), is_idle(fitted))
    return fitted, report


def is_idle(lora: Lora) -> bool:
    """True where not one weight is changed. Reads one pair of a LoRA that does something."""
    for layer, pair in lora.pairs.items():
        if lora.strength * lora.scales.get(layer, 1.0) != 0 and all(
            (part != 0).any().item() for part in reversed(pair)
        ):
            return False
    return True


def check_change(loras: tuple[Lora, ...], name: str) -> None:
    """Raises WeightsError for the LoRA that makes the parameter ``name`` something that is no number."""
    layer = name.removesuffix(".weight")
    for lora in loras:
        if layer in lora.pairs:
            bad = [part for part, x in zip("AB", lora.pairs[layer], strict=True) if not all_finite(x).item()]
            if bad:
                said = f"its {bad[0]} for {layer} holds NaN or ∞: the file is damaged"
                raise WeightsError(f"{lora.path}: {said}. Download it again")
    if layer != name and (fused := [lora for lora in loras if layer in lora.pairs]):
        said = f"{layer} overflows at strength {fused[0].strength:g}"
        raise WeightsError(f"{fused[0].path}: {said}. Use a smaller strength, or --dtype bfloat16")


def prepare_deltas(loras: tuple[Lora, ...], name: str, dtype: mx.Dtype) -> mx.array | None:
    """The summed change ``(out, in)`` of a parameter in ``dtype``, None where no LoRA has a pair for it.

    Each product is formed in its file's dtype and then cast; their sum is rounded once.
    """
    layer = name.removesuffix(".weight")
    pairs = [
        (lora.pairs[layer], lora.strength * lora.scales.get(layer, 1.0))
        for lora in loras
        if layer in lora.pairs and layer != name
    ]
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
        return to_fp8(nan_for_infinity(delta + from_fp8(weight, mx.bfloat16)))
    return (delta + weight).astype(dtype)


def fuse_scaled(
    loras: tuple[Lora, ...], name: str, weight: mx.array, weight_scale: mx.array
) -> tuple[mx.array, mx.array]:
    """Add every LoRA to a float8 weight with a scale, in float32; bytes and scale change only where one is added."""
    delta = prepare_deltas(loras, name, mx.bfloat16)
    if delta is None:
        return weight, weight_scale
    return quantize_weight_to_fp8_per_tensor(from_fp8(weight, mx.float32) * weight_scale + delta.astype(mx.float32))


def rank_of(loras: tuple[Lora, ...], layer: str) -> int:
    """The rank of all LoRAs of a layer together; 0 where there is none."""
    return sum(lora.pairs.shapes(layer)[0][0] for lora in loras if layer in lora.pairs)


def beside_layer(loras: tuple[Lora, ...], layer: str, dtype: mx.Dtype) -> tuple[mx.array, mx.array] | None:
    """A ``(rank, in)`` and B·strength ``(out, rank)`` of every LoRA of a layer, one after the other, in ``dtype``: for
    a packed weight, beside which B·(A·x) is added to what the layer makes. None where there is none."""
    pairs = [(*lora.pairs[layer], lora) for lora in loras if layer in lora.pairs]
    if not pairs:
        return None
    strengths = [lora.strength * lora.scales.get(layer, 1.0) for _, _, lora in pairs]
    a = mx.concatenate([a.astype(dtype) for a, _, _ in pairs])
    b = [(b.astype(mx.float32) * by).astype(dtype) for (_, b, _), by in zip(pairs, strengths, strict=True)]
    return a, mx.concatenate(b, axis=1)


def _some(names: Sequence[str], count: int = 3) -> str:
    return ", ".join(map(cut, names[:count])) + (f" and {len(names) - count} more" if len(names) > count else "")
