"""The process of one line: ``python -m parity.doctor.process NAME SETTING``. Its last line of output is the finding."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace

import parity


def main(name: str, setting: str) -> None:
    """Ask the line and print what was found."""
    from ..run.environment import use_device
    from ..run.pool import peak_gb
    from .examine import ask, chosen, document_of
    from .line import Setting

    (line,) = chosen(name)
    if line.plain_float32 and parity.TF32_ASKED != "0":  # MLX reads this at its first product
        del os.environ["MLX_ENABLE_TF32"]
        if parity.TF32_ASKED is not None:
            os.environ["MLX_ENABLE_TF32"] = parity.TF32_ASKED
    where = Setting(**json.loads(setting))
    use_device(where.device)
    print(json.dumps(document_of(replace(ask(line, where), gigabytes=peak_gb()))))


if __name__ == "__main__":
    main(*sys.argv[1:])
