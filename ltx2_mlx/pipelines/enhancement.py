"""Lets Gemma itself, from the same folder of weights, rewrite a short prompt as a long one: through mlx-lm, or through
mlx-vlm where Gemma is to see the video's first image. Both are optional extras."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import mlx.core as mx
import numpy as np
from PIL import Image

from ..config import is_gemma4
from ..config.reading import read_json
from ..errors import InputError
from ..loading.gemma import is_gemma_file, refuse_code
from ..media.images import decode_image, resize_aspect_ratio_preserving

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
IMAGE_SYSTEM_PROMPT = """\
You are shown a picture, the first frame of one continuous shot, and a short idea of what happens in it. Write what \
follows from that frame on, for a model that has the picture too and will render video with sound.

Write a single paragraph of at most 150 words, in English, present tense, and nothing else: no title, no list, no \
comment, no quotation marks around the whole.

Keep everything that the idea states: who, what, where, how many, which words are spoken, which style. Where the idea \
and the picture differ, the idea is right: tell how the picture turns into it.
The picture shows how everything looks; do not describe that again. Name people, animals and things only so far as is \
needed to tell who moves, and invent nothing that the picture does not show and the idea does not ask for.
Tell in the order of time what changes: how people, animals and things move, what their faces and hands do, how light \
and weather change. If the idea names no action, give what is seen a small and natural one.
The camera moves only if the idea says so.
Describe what is heard while it is seen: voices, steps, machines, wind, music. Put spoken words in double quotes and \
say who speaks and in which tone. If nobody speaks in the idea, nobody speaks.
Describe only what can be seen or heard: no thoughts, no smells, no feelings without an outward sign.
"""
IMAGE_LONG_SIDE = 896
# What fonts and tokenizers of captions do not have: typographic quotes, dashes, no-break space.
_PLAIN = str.maketrans("‘’“”′—–−\u00a0", "''\"\"'--- ")


def enhance_prompt(
    prompt: str,
    gemma_root: str | Path,
    *,
    image_path: str | Path | None = None,
    seed: int = 42,
    max_tokens: int = 512,
    temperature: float = 0.7,
    system_prompt: str | None = None,
) -> str:
    """``prompt`` rewritten as one long description. The same seed gives the same text on the same machine.

    image_path: the video's first image, which Gemma sees beside the prompt. system_prompt: None for our own,
    SYSTEM_PROMPT or, beside an image, IMAGE_SYSTEM_PROMPT. MLX's global random state moves on by one draw, however
    many Gemma takes, and the language model is released. Raises InputError where mlx-lm (with an image, mlx-vlm) is
    not installed, or where Gemma's answer has no words; and what ``decode_image`` raises for the image.

    Source: ``ltx_pipelines.utils.helpers.generate_enhanced_prompt``.
    """
    check_writes(gemma_root)
    refuse_code(gemma_root)
    after = int(np.array(mx.random.randint(0, 2**31 - 1)))  # the state itself can be read but not put back
    try:
        if image_path is None:
            messages = _messages(system_prompt or SYSTEM_PROMPT, prompt.strip())
            text = _written(gemma_root, messages, seed, max_tokens, temperature)
        else:
            content = [{"type": "image"}, {"type": "text", "text": prompt.strip()}]
            messages = _messages(system_prompt or IMAGE_SYSTEM_PROMPT, content)
            text = _written_beside(image_path, gemma_root, messages, seed, max_tokens, temperature)
    finally:
        mx.random.seed(after)
        mx.clear_cache()
    enhanced = clean_response(text)
    if not enhanced:
        raise InputError(f"Gemma made nothing of the prompt ({text[:80]!r}). Use the prompt as it is")
    return enhanced


def check_writes(gemma_root: str | Path) -> None:
    """Raises InputError for a Gemma that writes no prompts: upstream's 2.5 takes another model for that."""
    config = Path(gemma_root) / "config.json"
    if is_gemma_file(gemma_root) or (config.is_file() and is_gemma4(read_json(config))):
        raise InputError(f"{gemma_root}: this Gemma 4 only encodes prompts; leave --enhance-prompt out")


Message = dict[str, object]


def _messages(system: str, user: str | list[dict[str, str]]) -> list[Message]:
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def _written(gemma_root: str | Path, messages: list[Message], seed: int, max_tokens: int, temperature: float) -> str:
    mlx_lm, sampling = _imported("mlx_lm"), _imported("mlx_lm", ".sample_utils")
    model, tokenizer = mlx_lm.load(str(gemma_root))
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    mx.random.seed(seed % 2**64)  # loading draws too
    sampler = sampling.make_sampler(temp=temperature)
    return str(mlx_lm.generate(model, tokenizer, prompt=ids, max_tokens=max_tokens, sampler=sampler))


def _written_beside(
    image_path: str | Path,
    gemma_root: str | Path,
    messages: list[Message],
    seed: int,
    max_tokens: int,
    temperature: float,
) -> str:
    """Gives Gemma the same tokens and pixels as the reference. Within the image mlx-vlm's attention is causal, and that
    of transformers goes both ways."""
    mlx_vlm = _imported("mlx_vlm")
    image = Image.fromarray(resize_aspect_ratio_preserving(decode_image(image_path), IMAGE_LONG_SIDE))
    model, processor = mlx_vlm.load(str(gemma_root))
    # mlx-vlm divides the picture's features by the root of this and multiplies them by the root of the text model's
    # width. Official folders do not state it, and the default is another model's: by 3840 / 2048 for the 12B one.
    model.config.hidden_size = model.config.text_config.hidden_size
    text = processor.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    mx.random.seed(seed % 2**64)
    options = {"max_tokens": max_tokens, "temperature": temperature, "skip_special_tokens": True}
    return str(mlx_vlm.generate(model, processor, text, image=image, **options).text)


def clean_response(text: str) -> str:
    """The text from its first letter on, with plain quotes, dashes and spaces; empty where there is no letter."""
    text = text.translate(_PLAIN).strip()
    start = next((i for i, character in enumerate(text) if character.isalpha()), len(text))
    return text[start:]


def library(image: bool) -> tuple[str, str]:
    """The module that enhancement needs, with or without an image, and the command that installs it."""
    extra = "enhance-image" if image else "enhance"
    return "mlx_vlm" if image else "mlx_lm", f"pip install 'ltx2-mlx[{extra}]'"


def _imported(package: str, module: str = "") -> ModuleType:
    try:
        return importlib.import_module(package + module)
    except ImportError as error:
        name, command = library(image=package == "mlx_vlm")
        raise InputError(
            f"prompt enhancement needs {name.replace('_', '-')}, which cannot be imported ({error}). Install it with "
            f"{command}, or leave the prompt as it is"
        ) from None
