"""Prompts to token ids, as ltx-core's ``LTXVGemmaTokenizer`` makes them: from the ``tokenizer.json`` of a folder, or
from the one that LTX-2.5's text encoder carries among its tensors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from safetensors import SafetensorError, safe_open
from tokenizers import Encoding, Tokenizer

from ..config import is_gemma4
from ..config.reading import cut, instead_of_json, read_json
from ..errors import CheckpointError, InputError

MAX_LENGTH = 1024  # tokens of every prompt in ltx-pipelines
IN_FILE = ("tokenizer_json", "hf_asset__tokenizer.json")  # the names of tensors that hold a tokenizer, as bytes
BOS, PAD = 2, 0  # Gemma 4's


class LTXVGemmaTokenizer:
    """Blanks stripped at both ends, BOS first, cut on the right, padded on the left to ``max_length`` tokens.

    tokenizer_path: a Gemma folder, or a text encoder of LTX-2.5. Gemma 4's tokenizer puts no BOS first: it is put there
    where a prompt does not begin with it. padding_side: "right" is a diagnostic; the networks are trained on the left.
    Raises CheckpointError where there is no usable tokenizer.
    """

    def __init__(self, tokenizer_path: str | Path, max_length: int = MAX_LENGTH, padding_side: str = "left"):
        if padding_side not in ("left", "right"):
            raise InputError(f"padding_side is {padding_side!r}, expected 'left' or 'right'")
        path = Path(tokenizer_path)
        self.file = path if path.is_file() else path / "tokenizer.json"
        self.max_length, self.padding_side = max_length, padding_side
        content = _in_file(path) if path.is_file() else _in_folder(self.file)
        with _library(self.file), _silence():
            self._tokenizer = Tokenizer.from_str(content)
            self._tokenizer.encode("a")  # some of what is wrong shows only now
        self._bos: Encoding | None = None
        if path.is_file() or _of_gemma4(path):
            self._cut_by_hand()
        else:
            self._cut_by_library(path)

    def _cut_by_library(self, folder: Path) -> None:
        """Let the library cut and pad, with the token that the folder names. BOS is the tokenizer's own."""
        config = read_json(folder / "tokenizer_config.json")
        pad = _content(config.get("pad_token")) or _content(config.get("eos_token"))
        pad_id = self._tokenizer.token_to_id(pad) if isinstance(pad, str) else None
        if pad_id is None:
            raise CheckpointError(
                f"{folder}: tokenizer_config.json names no padding token of tokenizer.json. Use the official folder"
            )
        max_length, padding_side = self.max_length, self.padding_side
        with _library(self.file):
            self._tokenizer.enable_truncation(max_length)
            self._tokenizer.enable_padding(direction=padding_side, pad_id=pad_id, pad_token=pad, length=max_length)

    def _cut_by_hand(self) -> None:
        """Leave cutting and padding to ``_begun``, which puts BOS first."""
        with _library(self.file):
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()
            self._bos = self._tokenizer.encode("<bos>", add_special_tokens=False)
        if self._bos.ids != [BOS]:
            raise CheckpointError(f"{self.file}: the token <bos> is not number {BOS}: not a tokenizer of Gemma 4")

    def _encoded(self, prompts: list[str]) -> list[Encoding]:
        """The tokens of each prompt, ``max_length`` of them."""
        with _library(self.file):
            encoded = self._tokenizer.encode_batch([prompt.strip() for prompt in prompts])
            return encoded if self._bos is None else [self._begun(item, self._bos) for item in encoded]

    def _begun(self, prompt: Encoding, bos: Encoding) -> Encoding:
        """A prompt of Gemma 4's that begins with BOS, cut on the right and padded."""
        tokens = prompt if prompt.ids[:1] == [BOS] else Encoding.merge([bos, prompt], growing_offsets=False)
        tokens.truncate(self.max_length)
        tokens.pad(self.max_length, direction=self.padding_side, pad_id=PAD, pad_token="<pad>")
        return tokens

    @property
    def vocabulary(self) -> int:
        """The highest id of a token, plus 1."""
        return max(self._tokenizer.get_vocab().values(), default=-1) + 1

    def encode(self, text: str | list[str]) -> tuple[mx.array, mx.array]:
        """Prompts → ids and mask ``(B, max_length)`` int32; the mask is 1 on tokens, 0 on pads."""
        encoded = self._encoded([text] if isinstance(text, str) else text)
        ids = np.array([item.ids for item in encoded], dtype=np.int32)
        mask = np.array([item.attention_mask for item in encoded], dtype=np.int32)
        return mx.array(ids), mx.array(mask)

    def beyond(self, text: str) -> str:
        """What follows the last token that is kept of one prompt; empty where all of it is kept."""
        (encoded,) = self._encoded([text])
        ends = [end for (_, end), kept in zip(encoded.offsets, encoded.attention_mask, strict=True) if kept]
        ends = ends if self._bos is None else ends[1:]  # that of <bos> is none of the text's
        return text.strip()[max(ends, default=0) :].strip() if encoded.overflowing else ""

    def tokens(self, text: str) -> list[str]:
        """The pieces of one prompt without its pads, for people to read."""
        (encoded,) = self._encoded([text])
        return [token for token, kept in zip(encoded.tokens, encoded.attention_mask, strict=True) if kept]


def _of_gemma4(folder: Path) -> bool:
    config = folder / "config.json"
    return config.is_file() and is_gemma4(read_json(config))


def _in_folder(file: Path) -> str:
    """The tokenizer of a folder. Raises CheckpointError."""
    if not file.exists():
        raise CheckpointError(f"{file}: no such file. Use a Gemma folder with its tokenizer.json")
    if not file.is_file():
        raise CheckpointError(f"{file}: not a regular file")
    with _library(file):
        content = file.read_bytes().decode()
    if said := instead_of_json(content):
        raise CheckpointError(f"{file}: {said}")
    return content


def _in_file(file: Path) -> str:
    """The tokenizer in a safetensors file, whose bytes are a tensor. Raises CheckpointError."""
    try:
        with safe_open(str(file), framework="np") as opened:
            name = next((name for name in IN_FILE if name in opened.keys()), None)  # noqa: SIM118
            held = None if name is None else opened.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file}: cannot be read ({cut(str(error), 200)})") from None
    if held is None:
        raise CheckpointError(f"{file}: it holds no tokenizer (tensor {IN_FILE[0]}). Use the official text encoder")
    if held.dtype != np.uint8:
        raise CheckpointError(f"{file}: its {name} is {held.dtype}, expected bytes (U8). Use the official text encoder")
    with _library(file):
        content: str = held.tobytes().decode()
        return content


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
