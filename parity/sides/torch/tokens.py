"""LTX-2.5's rules for tokens, by the ``tokenizers`` library and lists alone: no release of ltx-core that has them is on
a registry."""

from __future__ import annotations

import numpy as np
import tokenizers
from safetensors import safe_open

BOS, PAD = 2, 0


class Gemma4Tokenizer:
    """A prompt is stripped and tokenized; BOS is put first where it is not there; what is too long is cut on the right,
    what is too short has pads on the left."""

    def __init__(self, tokenizer_path: str, max_length: int):
        with safe_open(tokenizer_path, framework="pt") as file:
            content = bytes(file.get_tensor("tokenizer_json").tolist())
        self._tokenizer, self._max_length = tokenizers.Tokenizer.from_str(content.decode()), max_length

    def encode(self, text: list[str]) -> tuple[np.ndarray, np.ndarray]:
        rows, masks = [], []
        for prompt in text:
            ids = list(self._tokenizer.encode(prompt.strip()).ids)
            if not ids or ids[0] != BOS:
                ids.insert(0, BOS)
            ids = ids[: self._max_length]
            pads = self._max_length - len(ids)
            rows.append([PAD] * pads + ids)
            masks.append([0] * pads + [1] * len(ids))
        return np.array(rows), np.array(masks)
