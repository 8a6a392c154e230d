"""``ltx2-mlx`` as one rank of a test: each command line of a JSON file, one after another, with short prompts.

python rank.py FILE: the file has a list of pairs, the name of a fault of ``rank_faults.OF_NOISE`` or null, and a
command line; the words that differ between ranks are lists themselves.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import nullcontext
from functools import partial

from ltx2_mlx.cli.main import main
from ltx2_mlx.pipelines import contexts, prompts
from ltx2_mlx.text.tokenizer import LTXVGemmaTokenizer
from parity.tests.rank_faults import OF_NOISE

prompts.LTXVGemmaTokenizer = partial(LTXVGemmaTokenizer, max_length=128)  # type: ignore[assignment,misc]
contexts.MAX_LENGTH = 128
with open(sys.argv[1]) as file:
    lines = json.load(file)
rank, code = int(os.environ["MLX_RANK"]), 0
for fault, line in lines:
    with OF_NOISE[fault][0]() if fault else nullcontext():
        code = main([word[rank] if isinstance(word, list) else word for word in line])
sys.exit(code)
