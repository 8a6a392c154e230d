"""The official files on Hugging Face that stand for flags that were not given."""

from __future__ import annotations

from typing import Any

from ..loading.gemma import is_gemma_file
from ..loading.hub import on_hub
from ..loading.lora import LoraPathStrength
from .terminal import Parser

GEMMA = "google/gemma-3-12b-it"
_LTX = "Lightricks/LTX-2"
DISTILLED = f"{_LTX}/ltx-2-19b-distilled.safetensors"
FULL = f"{_LTX}/ltx-2-19b-dev.safetensors"
UPSAMPLER = f"{_LTX}/ltx-2-spatial-upscaler-x2-1.0.safetensors"
DISTILLED_LORA = f"{_LTX}/ltx-2-19b-distilled-lora-384.safetensors"


def assume(parser: Parser, values: dict[str, Any], whole: bool) -> tuple[str, ...]:
    """Put the official names in the place of files that were not given, and return them. whole: no checkpoint was
    given. The upsampler and the distilled LoRA belong to theirs: where it is given, they have to be given too."""
    assumed: dict[str, tuple[str, Any]] = {}
    flags = {action.dest: action.option_strings[0] for action in parser._actions if action.option_strings}
    if whole:
        name = DISTILLED if flags["checkpoint_path"].startswith("--distilled") else FULL
        assumed["checkpoint_path"] = name, name
    for dest, name, value in (
        ("spatial_upsampler_path", UPSAMPLER, UPSAMPLER),
        ("distilled_lora", DISTILLED_LORA, [LoraPathStrength(DISTILLED_LORA)]),
    ):
        if dest in flags and not values[dest]:
            if not whole:
                parser.error(f"the following arguments are required: {flags[dest]}")
            assumed[dest] = name, value
    if values["gemma_root"] is None and _needs_gemma(values):
        encoder = values["text_encoder_path"]
        if encoder is not None and (is_gemma_file(encoder) or on_hub(encoder)):  # of 2.5: Gemma is in it
            values["gemma_root"] = encoder
        else:
            assumed["gemma_root"] = GEMMA, GEMMA
    values |= {dest: value for dest, (_, value) in assumed.items()}
    return tuple(name for name, _ in assumed.values())


def _needs_gemma(values: dict[str, Any]) -> bool:
    """True unless nothing is encoded or a file has contexts; ``plan`` says so where that of a prompt is not in it."""
    known = values["context"] is not None and values["context"].exists()
    return not values["placeholder"] and (values["enhance_prompt"] or not known)
