"""Prompts to token ids, as ltx-core's ``LTXVGemmaTokenizer`` makes them, from a folder's ``tokenizer.json``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
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
        self.file, self.max_length, self.padding_side = file, max_length, padding_side
        with _library(file), _silence():
            self._tokenizer = Tokenizer.from_file(str(file))
            self._tokenizer.encode("a")  # some of what is wrong shows only now
        config = read_json(folder / "tokenizer_config.json")
        pad = _content(config.get("pad_token")) or _content(config.get("eos_token"))
        pad_id = self._tokenizer.token_to_id(pad) if isinstance(pad, str) else None
        if pad_id is None:
            raise CheckpointError(
                f"{folder}: tokenizer_config.json names no padding token of tokenizer.json. Use the official folder"
            )
        with _library(file):
            self._tokenizer.enable_truncation(max_length)
            self._tokenizer.enable_padding(direction=padding_side, pad_id=pad_id, pad_token=pad, length=max_length)

    @property
    def vocabulary(self) -> int:
        """The highest id of a token, plus 1."""
        return max(self._tokenizer.get_vocab().values(), default=-1) + 1

    def encode(self, text: str | list[str]) -> tuple[mx.array, mx.array]:
        """Prompts → ids and mask ``(B, max_length)`` int32; the mask is 1 on tokens, 0 on pads."""
        prompts = [text] if isinstance(text, str) else text
        with _library(self.file):
            encoded = self._tokenizer.encode_batch([prompt.strip() for prompt in prompts])
        ids = np.array([item.ids for item in encoded], dtype=np.int32)
        mask = np.array([item.attention_mask for item in encoded], dtype=np.int32)
        return mx.array(ids), mx.array(mask)

    def beyond(self, text: str) -> str:
        """What follows the last token that is kept of one prompt; empty where all of it is kept."""
        text = text.strip()
        with _library(self.file):
            encoded = self._tokenizer.encode(text)
        ends = [end for (_, end), kept in zip(encoded.offsets, encoded.attention_mask, strict=True) if kept]
        return text[max(ends, default=0) :].strip() if encoded.overflowing else ""

    def tokens(self, text: str) -> list[str]:
        """The pieces of one prompt without its pads, for people to read."""
        encoded = self._tokenizer.encode(text.strip())
        return [token for token, kept in zip(encoded.tokens, encoded.attention_mask, strict=True) if kept]


@contextmanager
def _library(file: Path) -> Iterator[None]:
    """Within, what the library raises becomes a CheckpointError: exceptions, and panics, which are no Exception."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise CheckpointError(f"{file}: cannot be read ({cut(str(error), 200)}). Fetch it again") from None


@contextmanager
def _silence() -> Iterator[None]:
    """Within, nothing gets to the process's stderr, where a panic of the library writes more than its message."""
    try:
        kept = os.dup(2)
    except OSError:  # it is closed
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _content(token: Any) -> Any:
    """A special token as tokenizer_config.json writes it: a string, or an object around it."""
    return token.get("content") if isinstance(token, dict) else token
