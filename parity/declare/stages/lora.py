"""LoRAs and float8: the transformer's weights as they are loaded, equal to the reference's to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..inputs import FIXTURES
from ..model import Case, Counterparts, DType, Stage, Step
from . import transformer

CLASSES = {"loaded_weights": Counterparts("parity.sides.torch:loaded_weights", "parity.sides.mlx:loaded_weights")}
FILES = {"bfloat16": "{}-lora", "float32": "{}-lora-f32", "second": "{}-distilled-lora", "third": "{}-ic-lora"}


def _step(name: str, config: str, loras: dict[str, float], dtype: DType, quantization: str | None = None) -> Step:
    files = tuple((FIXTURES / f"{FILES[kind].format(config)}.safetensors", by) for kind, by in loras.items())
    kwargs = {"path": FIXTURES / f"{config}.safetensors", "loras": files, "dtype": dtype, "quantization": quantization}
    return Step(f"{name}.{dtype.value}", "loaded_weights", kwargs)


# bfloat16 files into both dtypes, and float32 files. With these a sum of products has more digits than float32 unless
# the strength is a short binary fraction: then no BLAS's order of adding enters.
LORAS = {
    "none": {},
    "full": {"bfloat16": 1.0},
    "weaker": {"bfloat16": 0.7},
    "negative": {"bfloat16": -0.3},
    "two": {"bfloat16": 0.7, "second": -0.3},
    "three": {"bfloat16": 0.7, "second": -0.3, "third": 1.0},
    "wide": {"float32": 0.75},
}


def _case(config: str, names: tuple[str, ...], *dtypes: DType, quantization: str | None = None) -> Case:
    steps = (_step(n, config, LORAS[n], dtype, quantization) for dtype in dtypes for n in names)
    return Case(steps=tuple(steps), half=False)


def cases(config: dict[str, Any]) -> dict[str, Case]:
    both = (DType.BFLOAT16, DType.FLOAT32)
    return {
        "bfloat16": _case("tiny-2.3", ("full", "weaker"), DType.BFLOAT16),
        "float32": _case("tiny-2.3", ("full", "weaker"), DType.FLOAT32),
        "other": _case("tiny-2.3", ("negative", "wide"), *both),
        "several": _case("tiny-2.3", ("two", "three"), *both),
        "fp8-cast": _case("tiny-2.3", ("none", "weaker", "two"), DType.BFLOAT16, quantization="fp8-cast"),
        "tiny-2.0": _case("tiny-2.0", ("two", "wide"), *both),
    }


LORA = Stage(name="lora", component=None, cases=cases, classes=CLASSES, configs=("any",))


def _masks(half: bool) -> Callable[[dict[str, Any]], dict[str, Case]]:
    """The one case that meets every tap and every parameter."""
    return lambda config: {"masks": replace(transformer.cases(config)["masks"], half=half)}


TRANSFORMER_LORA = replace(
    transformer.TRANSFORMER,
    name="transformer_lora",
    cases=_masks(half=False),
    configs=("tiny-2.3",),
    loras=(("{config}-lora-f32", 0.7), ("{config}-distilled-lora-f32", -0.3)),
)
TRANSFORMER_FP8 = replace(
    transformer.TRANSFORMER,
    name="transformer_fp8",
    cases=_masks(half=True),
    configs=("tiny-2.3",),
    quantization="fp8-cast",
)
