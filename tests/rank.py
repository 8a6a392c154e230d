"""``ltx2-mlx`` as one rank of a test: each command line of a JSON file, one after another, with short prompts.

python rank.py FILE: the file has a list of pairs, the name of a fault of ``rank_faults.OF_NOISE`` or null, and a
command line; the words that differ between ranks are lists themselves. A first word with dots in it is what raises an
error on a rank; after "killed" it is what kills the rank, and after "stuck" what never returns.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
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


def killed(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stuck(*_: object) -> None:
    """As a long computation does, this hears no signal: a lock is taken twice."""
    lib, lock = ctypes.CDLL(None), ctypes.create_string_buffer(128)
    lib.pthread_mutex_init(lock, None)
    for _ in range(2):
        lib.pthread_mutex_lock(lock)


EFFECTS = {"": LTX2Error("it fails here"), "killed": killed, "stuck": stuck}


def run(words: list[str]) -> int:
    """One command line."""
    what, _, place = words[0].rpartition(" ")
    if "." not in place:
        return main([word for word in words if word])
    with mock.patch(place, side_effect=EFFECTS[what]):
        return main(words[1:])


code = 0
for fault, line in lines:
    with OF_NOISE[fault][0]() if fault else nullcontext():
        code = run([word[rank] if isinstance(word, list) else word for word in line])
sys.exit(code)
