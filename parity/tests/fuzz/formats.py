"""Every format of both packages, and what becomes of one case of it."""

from __future__ import annotations

import os
import random
import traceback
from collections.abc import Iterator
from pathlib import Path

from ltx2_mlx.errors import LTX2Error

from . import harness, lines, product
from .reading import Format, WrongError


def warm() -> None:
    """Import what readers import, and make the whole files."""
    import parity.sides.torch  # noqa: F401  takes the longest
    from parity.sides.fixtures import ensure_fixtures

    ensure_fixtures()
    lines.prepare()
    product.media_files()
    product.whole_contexts()


FORMATS: dict[str, Format] = product.FORMATS | harness.FORMATS | lines.FORMATS


def outcome(name: str, number: int, seed: int, folder: Path) -> tuple[str, str]:
    """Make and read one case: ok, refused, or what is bad of it, and why."""
    rng = random.Random(f"{seed} {name} {number}")
    made = FORMATS[name].make(folder, rng)
    os.environ["GITHUB_ACTIONS"] = "false"
    try:
        FORMATS[name].read(made)
    except LTX2Error as error:
        said = str(error)
        named = not isinstance(made, Path) or made.name in said or f"/{made.stem}/" in said
        if "\n" in said or len(said) > 6000:
            return "many lines", said[:300]
        return ("refused", "") if named else ("unnamed", said[:300])
    except WrongError as error:
        return "wrong", str(error)[:500]
    except MemoryError as error:
        return "memory", str(error)
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [f"{Path(f.filename).name}:{f.lineno}" for f in frames if "site-packages" not in f.filename]
        return "traceback", f"{type(error).__name__}: {error}"[:200].replace(
            "\n", " "
        ) + f" at {' < '.join(ours[:-7:-1])}"
    return "ok", ""


def shares(cases: int) -> Iterator[tuple[str, int]]:
    """(format, number) of each case."""
    whole = sum(form.share for form in FORMATS.values())
    for name, form in FORMATS.items():
        for number in range(max(1, round(cases * form.share / whole))):
            yield name, number
