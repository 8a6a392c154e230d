"""Prompts to token ids and mask: equal to those of ltx-core's LTXVGemmaTokenizer, and for 2.5 to those of its rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..inputs import GEMMA, GEMMA4, words
from ..model import Case, Counterparts, Obj, Stage, Step

PROMPTS = {
    "plain": [
        "A red fox walks through fresh snow at dawn.",
        'Two sailors argue: "You said the tide would turn."',
        "blurry, low quality, jitter, 0123456789",
    ],
    "blanks": ["", " ", "  \t\n a fox \u00a0 \n", "a  fox   in\tthe\n\nsnow", "\u3000snow\u3000", "▁fox▁"],
    "scripts": [
        "🦊 in the ❄️, 👩‍🚀🏽 waves",
        "雪の中を歩く狐。彼女は言った「行こう」",
        "여우가 눈 속을 걷는다",
        "ثعلب أحمر في الثلج",
        "un renard roux, naïve café — “ça va ?”",
        "e\u0301 is é",
    ],
    "special": ["<bos>a fox<eos>", "<start_of_turn>user\nfox<end_of_turn>", "<pad><pad> fox", "<0x0A><unk>"],
    # Longer than 1024 tokens, with a head and a tail that tell the sides apart; one of just 1024, one above, one below.
    "long": [
        "HEAD " + "a fox in the snow, " * 400 + " TAIL",
        *("x " * count for count in (1021, 1022, 1023, 1024, 1025)),
        "狐" * 1100,
    ],
}


def cases(config: dict[str, Any]) -> dict[str, Case]:
    return {"prompts": _encoding("LTXVGemmaTokenizer", GEMMA), "gemma4": _encoding("Gemma4Tokenizer", GEMMA4)}


def _encoding(name: str, path: Path) -> Case:
    prompts = PROMPTS | {"plain": [*PROMPTS["plain"], words("prompt", 30)]}
    steps = []
    for length in (1024, 16):
        target = Obj(name, {"tokenizer_path": str(path), "max_length": length})
        steps += [Step(f"{kind}.{length}", target, {"text": text}, "encode") for kind, text in prompts.items()]
    return Case(steps=tuple(steps))


TOKENIZER = Stage(
    name="tokenizer",
    component=None,
    cases=cases,
    classes={
        "LTXVGemmaTokenizer": Counterparts(
            "parity.sides.torch:Tokenizer", "ltx2_mlx.text.tokenizer:LTXVGemmaTokenizer"
        ),
        "Gemma4Tokenizer": Counterparts(
            "parity.sides.torch:Gemma4Tokenizer", "ltx2_mlx.text.tokenizer:LTXVGemmaTokenizer"
        ),
    },
    configs=("any",),
)
