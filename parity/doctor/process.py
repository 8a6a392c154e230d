"""The process of a line or a few: ``python -m parity.doctor.process SETTING NAME …``. It prints a finding a line."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace

import parity


def main(setting: str, *names: str) -> None:
    """Ask the lines and print what was found."""
    from ..run.environment import use_device
    from ..run.pool import peak_gb
    from .examine import ask, chosen, document_of
    from .line import Setting

    lines = [line for name in names for line in chosen(name)]
    if lines[0].plain_float32 and parity.TF32_ASKED != "0":  # MLX reads this at its first product
        del os.environ["MLX_ENABLE_TF32"]
        if parity.TF32_ASKED is not None:
            os.environ["MLX_ENABLE_TF32"] = parity.TF32_ASKED
    where = Setting(**json.loads(setting))
    use_device(where.device)
    for line in lines:
        print(json.dumps(document_of(replace(ask(line, where), gigabytes=peak_gb()))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
