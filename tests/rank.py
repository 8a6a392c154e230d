"""``ltx2-mlx`` as one rank of a test: each command line of a JSON file, one after another, with short prompts.

python rank.py FILE: the file has a list of command lines; the words that differ between ranks are lists themselves.
"""

from __future__ import annotations

import json
import os
import sys
from functools import partial

from ltx2_mlx.cli.main import main
from ltx2_mlx.pipelines import contexts, prompts
from ltx2_mlx.text.tokenizer import LTXVGemmaTokenizer

prompts.LTXVGemmaTokenizer = partial(LTXVGemmaTokenizer, max_length=128)  # type: ignore[assignment,misc]
contexts.MAX_LENGTH = 128
with open(sys.argv[1]) as file:
    lines = json.load(file)
rank = int(os.environ["MLX_RANK"])
sys.exit([main([word[rank] if isinstance(word, list) else word for word in line]) for line in lines][-1])
