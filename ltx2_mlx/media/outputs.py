"""Files and folders that are written: whole or not at all, and never over what must stay.

What is being written has a name of its own beside the target, ``.NAME.XXXXXXXX.ltx2-part.mp4``, and is locked by its
process. A killed run leaves it unlocked, and the next run into the same folder removes it.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import InputError, MediaError

_PART = re.compile(r"\..+\.[0-9a-f]{8}\.ltx2-part(\.\w+)?")
_FRAME = re.compile(r"frame_\d{5,}\.png")
AUDIO, SETTINGS = "audio.wav", "settings.json"  # beside frames
MOVIES = (".mp4", ".mov")


def kind(path: Path) -> str:
    """The kind of output that a name asks for: one of ``MOVIES``, ``.wav``, or an empty text for a folder of PNG
    frames."""
    suffix = path.suffix.lower()
    if suffix not in (*MOVIES, ".wav", ""):
        raise InputError(f"{path}: ends in {path.suffix}; use .mp4, .mov, .wav, or a folder's name for PNG frames")
    return suffix


def check_output(path: Path, *, overwrite: bool, inputs: Iterable[str | Path] = ()) -> None:
    """Raises InputError where ``path`` cannot be written, exists and is not to be overwritten, or is one of the inputs
    under any of its names. ``plan`` and ``generate`` call this before any work."""
    suffix, there = kind(path), _mode(path)
    _check_inputs(path, inputs)
    if there is None:
        _check_folder(path)
        return
    if suffix and stat.S_ISDIR(there):
        raise InputError(f"{path}: a folder, and {suffix} is a file; give another name")
    if not suffix and not stat.S_ISDIR(there):
        raise InputError(f"{path}: a file, and PNG frames go into a folder; give another name")
    if suffix and not stat.S_ISREG(there):
        raise InputError(f"{path}: a pipe or a device, expected a file; give another name")
    if not suffix:
        _check_frames_folder(path)
    if not overwrite and (suffix or any(path.iterdir())):
        raise InputError(f"{path} exists; give another name, or --overwrite to replace it")
    _check_folder(path)


def check_context(path: Path, output: Path) -> None:
    """Raises InputError where the file of contexts cannot be written, or would be lost with the output."""
    if path.suffix != ".safetensors":
        raise InputError(f"--context {path}: the file of contexts must be named .safetensors")
    if path == output or output in path.parents:
        raise InputError(f"--context {path} lies in {output}, which is written as a whole; give another name")
    there = _mode(path)
    if there is not None and not stat.S_ISREG(there):
        raise InputError(f"--context {path}: not a file; give another name")
    if there is None and not path.parent.is_dir():
        raise InputError(f"--context {path}: there is no folder {path.parent}; make it first")
    if there is None:
        _check_folder(path)


def check_beside(flag: str, path: Path, output: Path, inputs: Iterable[str | Path]) -> None:
    """Raises InputError where what ``flag`` writes beside the output cannot be written, would be lost with the output,
    or would replace an input."""
    _check_inputs(path, inputs)
    if path == output or output in path.parents or path in output.parents:
        raise InputError(f"{flag} {path} and {output} lie in each other; give another name")
    if _mode(path) is None:
        _check_folder(path)


def check_weights(path: Path, *, folder: bool, overwrite: bool, inputs: Iterable[str | Path]) -> None:
    """Raises InputError where a file of weights, or a folder of them, cannot be written, exists and is not to be
    overwritten, or is one of the inputs."""
    if not folder and path.suffix != ".safetensors":
        raise InputError(f"{path}: a file of weights must be named .safetensors")
    there = _mode(path)
    _check_inputs(path, inputs)
    if there is not None and (not stat.S_ISDIR(there) if folder else not stat.S_ISREG(there)):
        raise InputError(f"{path}: not a {'folder' if folder else 'file'}; give another name")
    if there is not None and not overwrite and not (folder and not any(path.iterdir())):
        raise InputError(f"{path} exists; give another name, or --overwrite to replace it")
    _check_folder(path)


def _mode(path: Path) -> int | None:
    """What kind of thing lies at ``path``; None for nothing."""
    try:
        return os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:  # a name that is too long, a loop of links, a null byte
        raise InputError(f"{path}: {getattr(error, 'strerror', None) or error}; give another path") from None


def _check_folder(path: Path) -> None:
    """The folder in which ``path`` is made exists and can be written to, or can be made itself."""
    there = next(folder for folder in path.parents if _mode(folder) is not None)
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK) or not _takes_files(there):
        raise InputError(f"{path}: {there} cannot be written to; give another path")


def _takes_files(folder: Path) -> bool:
    """False for a folder of the kernel's (/proc, /sys), where root may write and nothing can be made. They have no
    blocks, as some file systems of networks have none: there a file is tried."""
    if os.statvfs(folder).f_blocks:
        return True
    with suppress(OSError):
        trial = _part(folder / "trial")
        os.close(os.open(trial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        trial.unlink()
        return True
    return False


def _check_frames_folder(path: Path) -> None:
    """Raises InputError for a folder that holds anything but frames and audio of this program: it is replaced whole."""
    other = sorted(
        entry.name for entry in path.iterdir() if not (_FRAME.fullmatch(entry.name) or entry.name in (AUDIO, SETTINGS))
    )
    if other:
        raise InputError(f"{path}: a folder that holds {other[0]}, which is not a frame; give a new or empty folder")
    if path == Path.cwd() or path.is_mount():
        raise InputError(f"{path}: the folder that this runs in cannot be replaced; give a new folder")


def _check_inputs(path: Path, inputs: Iterable[str | Path]) -> None:
    for given in inputs:
        if _same(path, Path(given)):
            raise InputError(f"{path}: an input of this run ({given}); give another name")


def _same(path: Path, source: Path) -> bool:
    """True where ``source`` is ``path`` under any name, or lies within it."""
    try:
        around = (source, *source.absolute().parents, *Path(os.path.realpath(source)).parents)
        return path.exists() and source.exists() and any(place.samefile(path) for place in around)
    except (OSError, ValueError):
        return False


# ---- writing ------------------------------------------------------------------------------------------------------


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A name beside ``path`` to write to. It becomes ``path`` at the end, or goes if there is an exception."""
    with _prepared(path):
        part, lock = _part(path), None
        try:  # from here on: a signal may come between any two lines
            lock = os.open(part, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
            _lock(lock)
            yield part
            _flush(part)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
            if lock is not None:
                os.close(lock)


@contextmanager
def whole_folder(path: Path, check: Callable[[Path], None] | None = None) -> Iterator[Path]:
    """The same for a folder of frames. An older one of this program is replaced; one with other files is refused.

    check: for a folder of something else, what refuses one that must not be replaced.
    """
    check = check or _check_frames_folder
    with _prepared(path):
        if path.is_dir():
            check(path)
        part, before, lock = _part(path), _part(path), None
        try:
            part.mkdir()
            lock = os.open(part, os.O_RDONLY)
            _lock(lock)
            yield part
            for file in part.rglob("*"):
                _flush(file)
            if path.is_dir():
                check(path)
                path.rename(before)
            part.rename(path)
        finally:
            if before.exists() and not path.exists():
                before.rename(path)
            for folder in (part, before):
                shutil.rmtree(folder, ignore_errors=True)
            if lock is not None:
                os.close(lock)


@contextmanager
def _prepared(path: Path) -> Iterator[None]:
    """The folder of ``path`` is there, without remains. An OSError within becomes a MediaError that names ``path``."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MediaError(f"{path}: its folder cannot be made: {error.strerror}") from error
    remove_remains(path.parent)
    try:
        yield
    except OSError as error:
        raise MediaError(f"{path}: cannot be written: {error.strerror or error}") from error


def remove_remains(folder: Path) -> None:
    """Remove what killed runs left in ``folder``: only names of this module's own form that no process holds."""
    with suppress(OSError):
        for entry in os.scandir(folder):
            if _PART.fullmatch(entry.name) and not entry.is_symlink() and not _held(entry.path):
                if entry.is_dir():
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    with suppress(OSError):
                        os.unlink(entry.path)


def _part(path: Path) -> Path:
    suffix = kind(path) if path.suffix.lower() in (*MOVIES, ".wav") else path.suffix
    return path.with_name(f".{path.stem[:40]}.{secrets.token_hex(4)}.ltx2-part{suffix}")


def _lock(descriptor: int) -> None:
    with suppress(OSError):  # a file system without locks: nothing is ever taken for remains there
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _held(path: str) -> bool:
    """True where a process holds the lock, or none can be had."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _flush(path: Path) -> None:
    """What was written is on the disk before it gets its name."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
