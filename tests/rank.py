"""``ltx2-mlx`` as one rank of a test: each command line of a JSON file, one after another, with short prompts.

python rank.py FILE: the file has a list of pairs, the name of a fault of ``rank_faults.OF_NOISE`` or null, and a
command line; the words that differ between ranks are lists themselves. A first word with dots in it is what raises an
error on a rank.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import nullcontext
from functools import partial
from unittest import mock

from ltx2_mlx.cli.main import main
from ltx2_mlx.errors import LTX2Error
from ltx2_mlx.pipelines import contexts, prompts
from ltx2_mlx.text.tokenizer import LTXVGemmaTokenizer
from parity.tests.rank_faults import OF_NOISE

prompts.LTXVGemmaTokenizer = partial(LTXVGemmaTokenizer, max_length=128)  # type: ignore[assignment,misc]
contexts.MAX_LENGTH = 128
with open(sys.argv[1]) as file:
    lines = json.load(file)
rank = int(os.environ["MLX_RANK"])


def run(words: list[str]) -> int:
    """One command line."""
    if "." not in words[0]:
        return main([word for word in words if word])
    with mock.patch(words[0], side_effect=LTX2Error("it fails here")):
        return main(words[1:])


code = 0
for fault, line in lines:
    with OF_NOISE[fault][0]() if fault else nullcontext():
        code = run([word[rank] if isinstance(word, list) else word for word in line])
sys.exit(code)
