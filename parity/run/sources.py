"""Is what Python runs what the sources say, and is the reference as it was installed?"""

from __future__ import annotations

import base64
import hashlib
import marshal
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import MAGIC_NUMBER, cache_from_source
from pathlib import Path

from ltx2_mlx.errors import InputError

_HEADER = 16
_UNCHECKED, _TIMED = b"\x01\0\0\0", b"\0\0\0\0"


def require_fresh(folder: Path) -> None:
    """Raises InputError where Python would run a compiled file that is another than its source: one that is never
    checked against it, or a source that was edited within the second or had its time set back."""
    for source in sorted(folder.rglob("*.py")):
        compiled = Path(cache_from_source(str(source)))
        if not compiled.exists() or not _would_run(made := compiled.read_bytes(), source):
            continue
        if not _is_of(made[_HEADER:], source.read_bytes()):
            raise InputError(f"{compiled} is not what {source.name} says now; remove it")


@cache
def _is_of(compiled: bytes, source: bytes) -> bool:
    code = compile(source, "", "exec", dont_inherit=True)
    try:
        return bool(marshal.loads(compiled) == code)
    except (ValueError, EOFError, TypeError):  # cut short, or damaged
        return False


def _would_run(compiled: bytes, source: Path) -> bool:
    stat = source.stat()
    made_of = b"".join((int(n) & 0xFFFFFFFF).to_bytes(4, "little") for n in (stat.st_mtime, stat.st_size))
    flags, source_then = compiled[4:8], compiled[8:_HEADER]
    return compiled[:4] == MAGIC_NUMBER and (flags == _UNCHECKED or (flags == _TIMED and source_then == made_of))


def edited(package: str, name: str, folder: Path | None) -> str:
    """What is otherwise in a package's folder than in the distribution that it was installed from, in words; "" for
    nothing, or where the installation keeps no digests."""
    try:
        found = distribution(name)
    except PackageNotFoundError:
        return ""
    installed = _digests(found, package)
    if folder is None or not installed:
        return ""
    if folder != Path(str(found.locate_file(package))).resolve():
        return str(folder)
    files = [inside for inside, digest in installed.items() if _digest(folder.parent / inside) != digest]
    return f"edited: {', '.join(files)}" if files else ""


def _digests(found: Distribution, package: str) -> dict[str, str]:
    files = [file for file in found.files or () if file.parts[0] == package and file.suffix == ".py"]
    return {file.as_posix(): file.hash.value for file in files if file.hash and file.hash.mode == "sha256"}


def _digest(file: Path) -> str:
    if not file.exists():
        return ""
    return base64.urlsafe_b64encode(hashlib.sha256(file.read_bytes()).digest()).decode().rstrip("=")
