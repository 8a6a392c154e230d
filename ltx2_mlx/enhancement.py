"""A short prompt made longer by Gemma itself, through mlx-lm (an optional extra) on the same folder of weights."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import mlx.core as mx

from .errors import InputError

SYSTEM_PROMPT = """\
You turn a short idea into the description of one continuous shot that a model will render as video with sound.

Write a single paragraph of at most 180 words, in English, present tense, and nothing else: no title, no list, no \
comment, no quotation marks around the whole.

Keep everything that the idea states: who, what, where, how many, which words are spoken, which style. Do not \
contradict it and add no second scene and no cut.
Start with what happens, then tell in the order of time how people, animals and things move and what their faces and \
hands do. Name their looks: age, hair, clothes, colours, materials.
Say where the camera is and how it moves; if the idea does not say, let it rest or follow slowly.
Describe light and weather.
Describe what is heard while it is seen: voices, steps, machines, wind, music. Put spoken words in double quotes and \
say who speaks and in which tone. If nobody speaks in the idea, nobody speaks.
Describe only what can be seen or heard: no thoughts, no smells, no feelings without an outward sign.
"""
# What fonts and tokenizers of captions do not have: typographic quotes, dashes, no-break space.
_PLAIN = str.maketrans("‘’“”′—–−\u00a0", "''\"\"'--- ")


def enhance_prompt(
    prompt: str,
    gemma_root: str | Path,
    *,
    seed: int = 42,
    max_tokens: int = 512,
    temperature: float = 0.7,
    system_prompt: str = SYSTEM_PROMPT,
) -> str:
    """``prompt`` rewritten as one long description. The same seed gives the same text on the same machine.

    MLX's global random state moves on by one draw, however many Gemma takes, and the language model is released. Raises
    InputError where mlx-lm is not installed, or where nothing that could serve as a prompt came out.
    """
    mlx_lm, sampling = _mlx_lm()
    model, tokenizer = mlx_lm.load(str(gemma_root))
    messages = [{"role": "system", "content": system_prompt}, {"role": "user", "content": prompt.strip()}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    after = mx.random.randint(0, 2**31 - 1).item()  # the state itself can be read but not put back
    try:
        mx.random.seed(seed)
        sampler = sampling.make_sampler(temp=temperature)
        text = mlx_lm.generate(model, tokenizer, prompt=ids, max_tokens=max_tokens, sampler=sampler)
    finally:
        mx.random.seed(after)
    del model
    mx.clear_cache()
    enhanced = clean_response(text)
    if not enhanced:
        raise InputError(f"Gemma made nothing of the prompt ({text[:80]!r}). Use the prompt as it is")
    return enhanced


def clean_response(text: str) -> str:
    """From the first letter on, typographic characters made plain; empty where there is no letter."""
    text = text.translate(_PLAIN).strip()
    start = next((i for i, character in enumerate(text) if character.isalpha()), len(text))
    return text[start:]


def _mlx_lm() -> tuple[ModuleType, ModuleType]:
    try:
        return importlib.import_module("mlx_lm"), importlib.import_module("mlx_lm.sample_utils")
    except ImportError as error:
        raise InputError(
            f"prompt enhancement needs mlx-lm, which cannot be imported ({error}). Install it with "
            "pip install 'ltx2-mlx[enhance]', or leave the prompt as it is"
        ) from None
