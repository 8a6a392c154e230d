"""Prompts to token ids, as ltx-core's ``LTXVGemmaTokenizer`` makes them, from a folder's ``tokenizer.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from tokenizers import Tokenizer

from ..config.reading import cut, read_json
from ..errors import CheckpointError, InputError

MAX_LENGTH = 1024  # tokens of every prompt in ltx-pipelines


class LTXVGemmaTokenizer:
    """Blanks stripped at both ends, BOS first, cut on the right, padded on the left to ``max_length`` tokens.

    padding_side: "right" is a diagnostic; the networks are trained on the left. Raises CheckpointError where the folder
    holds no usable tokenizer.
    """

    def __init__(self, tokenizer_path: str | Path, max_length: int = MAX_LENGTH, padding_side: str = "left"):
        if padding_side not in ("left", "right"):
            raise InputError(f"padding_side is {padding_side!r}, expected 'left' or 'right'")
        folder = Path(tokenizer_path)
        file = folder / "tokenizer.json"
        if not file.exists():
            raise CheckpointError(f"{file}: no such file. Use a Gemma 3 folder with its tokenizer.json")
        if not file.is_file():
            raise CheckpointError(f"{file}: not a regular file")
        try:
            self._tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises plain Exception
            raise CheckpointError(f"{file}: cannot be read ({cut(str(error), 200)}). Fetch it again") from None
        config = read_json(folder / "tokenizer_config.json")
        self.max_length, self.padding_side = max_length, padding_side
        pad = _content(config.get("pad_token")) or _content(config.get("eos_token"))
        pad_id = self._tokenizer.token_to_id(pad) if isinstance(pad, str) else None
        if pad_id is None:
            raise CheckpointError(
                f"{folder}: tokenizer_config.json names no padding token of tokenizer.json. Use the official folder"
            )
        self._tokenizer.enable_truncation(max_length)
        self._tokenizer.enable_padding(direction=padding_side, pad_id=pad_id, pad_token=pad, length=max_length)

    def encode(self, text: str | list[str]) -> tuple[mx.array, mx.array]:
        """Prompts → ids and mask ``(B, max_length)`` int32; the mask is 1 on tokens, 0 on pads."""
        prompts = [text] if isinstance(text, str) else text
        encoded = self._tokenizer.encode_batch([prompt.strip() for prompt in prompts])
        ids = np.array([item.ids for item in encoded], dtype=np.int32)
        mask = np.array([item.attention_mask for item in encoded], dtype=np.int32)
        return mx.array(ids), mx.array(mask)

    def beyond(self, text: str) -> str:
        """What follows the last token that is kept of one prompt; empty where all of it is kept."""
        text = text.strip()
        encoded = self._tokenizer.encode(text)
        ends = [end for (_, end), kept in zip(encoded.offsets, encoded.attention_mask, strict=True) if kept]
        return text[max(ends, default=0) :].strip() if encoded.overflowing else ""

    def tokens(self, text: str) -> list[str]:
        """The pieces of one prompt without its pads, for people to read."""
        encoded = self._tokenizer.encode(text.strip())
        return [token for token, kept in zip(encoded.tokens, encoded.attention_mask, strict=True) if kept]


def _content(token: Any) -> Any:
    """A special token as tokenizer_config.json writes it: a string, or an object around it."""
    return token.get("content") if isinstance(token, dict) else token
