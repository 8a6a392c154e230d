"""Where this machine's files were when a video was made, by their fingerprints.

A video's own settings name files without their folders, so that it can be shared. This list, in the user's cache
folder, finds them again. Nothing depends on it but ``--config``: it may be deleted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ..errors import LTX2Error
from ..media.outputs import whole_file

_MOST = 2000  # files that are remembered


def file() -> Path:
    """The list: fingerprint → path, the newest last."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ltx2-mlx" / "places.json"


def known() -> dict[str, str]:
    """The list as it is; empty where there is none, or it cannot be read."""
    with suppress(OSError, ValueError, RuntimeError, RecursionError):
        content = json.loads(file().read_bytes())
        if isinstance(content, dict):
            return {key: value for key, value in content.items() if isinstance(value, str)}
    return {}


def remember(found: Mapping[str, str]) -> None:
    """Add files, fingerprint → path. Where the list cannot be written, they have to be named again: no error."""
    before = known()
    if all(before.get(key) == value for key, value in found.items()):
        return
    kept = {key: value for key, value in before.items() if key not in found} | dict(found)
    with suppress(OSError, RuntimeError, LTX2Error), whole_file(file()) as part:
        part.write_text(json.dumps(dict(list(kept.items())[-_MOST:]), indent=0))
