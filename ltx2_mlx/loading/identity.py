"""What tells one set of weights from another: a hash of a component's tensors, its config and the files beside it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

from ..errors import CheckpointError
from .checkpoint import Checkpoint, CheckpointPath, read_checkpoint
from .gemma import GemmaFile, read_gemma
from .header import TensorInfo
from .hub import GEMMA_PATTERNS
from .load import COMPONENTS

_CHUNK = 1 << 22
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
_SAMPLES, _SAMPLE = 64, 1 << 18  # pieces of a large file, and the bytes of each
State = tuple[tuple[int, int, int], ...]


def text_side(path: CheckpointPath) -> Identity:
    """The identity of a checkpoint's text projection and connectors."""
    return Identity(read_checkpoint(path), "embeddings_processor")


def gemma_side(path: str | Path) -> Identity:
    """The identity of Gemma's text model and its tokenizer, of which a text encoder of LTX-2.5 holds both."""
    gemma = read_gemma(path)
    if isinstance(gemma, GemmaFile):
        return Identity(gemma, "gemma", within="gemma_assets")
    return Identity(gemma, "gemma", tuple(Path(path) / name for name in _TOKENIZER))


class Identity:
    """The content of one component. ``state`` is cheap: what the file system says of its files. ``digest`` reads every
    byte of the component's tensors, once a process while the state stays: about 2 GB a second and core."""

    def __init__(self, checkpoint: Checkpoint, component: str, beside: tuple[Path, ...] = (), within: str = ""):
        """beside: other files that belong to it. within: another component of the checkpoint's that does."""
        parts = checkpoint.components()
        keys = parts.get(component, {}) | (parts.get(within, {}) if within else {})
        self._tensors = tuple(sorted((name, checkpoint.tensors[key]) for name, key in keys.items()))
        self._config = repr(COMPONENTS[component].read(checkpoint.config))
        self._beside = beside

    @property
    def state(self) -> State:
        """Inode, size and time of the last change of each file."""
        files = dict.fromkeys([*(info.file for _, info in self._tensors), *self._beside])
        try:
            return tuple((s.st_ino, s.st_size, s.st_mtime_ns) for s in map(os.stat, files))
        except OSError as error:
            raise CheckpointError(f"{error.filename}: cannot be read ({error.strerror})") from None

    @property
    def digest(self) -> str:
        """SHA-256 in hexadecimal digits."""
        return _digest(self.state, self._config, self._tensors, self._beside)


@lru_cache(maxsize=8)
def _digest(state: State, config: str, tensors: tuple[tuple[str, TensorInfo], ...], beside: tuple[Path, ...]) -> str:
    total = hashlib.sha256(config.encode())
    try:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            parts = pool.map(lambda part: _hash(*part), _parts(tensors, beside))
            names = [*(f"{name} {info.dtype} {info.shape}" for name, info in tensors), *(file.name for file in beside)]
            for name, part in zip(names, parts, strict=True):
                total.update(f"\n{name} ".encode("utf-8", "surrogatepass") + part)
    except OSError as error:
        raise CheckpointError(f"{error.filename}: cannot be read ({error.strerror})") from None
    return total.hexdigest()


def _parts(
    tensors: tuple[tuple[str, TensorInfo], ...], beside: tuple[Path, ...]
) -> Iterable[tuple[Path, int, int | None]]:
    yield from ((info.file, info.offset, info.nbytes) for _, info in tensors)
    yield from ((file, 0, None) for file in beside)


def _hash(file: Path, offset: int, size: int | None) -> bytes:
    """The hash of ``size`` bytes of a file from ``offset`` on, or of all that follows."""
    result = hashlib.sha256()
    with file.open("rb") as opened:
        opened.seek(offset)
        left = os.stat(file).st_size if size is None else size
        while left and (chunk := opened.read(min(left, _CHUNK))):
            result.update(chunk)
            left -= len(chunk)
    return result.digest()


# ---- any file -----------------------------------------------------------------------------------------------------


def fingerprint(path: str | Path) -> str:
    """Which file this is, in milliseconds whatever its size: SHA-256 of its size and of 16 MB of it. That is the whole
    of a smaller one; of a larger one 64 pieces, spread evenly from its first byte, where a checkpoint's header lies, to
    its last. It tells one training from another, and does not prove that no byte has changed: that is ``Identity``.

    Of a folder (Gemma's): that of the model's and the tokenizer's files, with their names.
    """
    path = Path(path)
    try:
        if path.is_dir():
            files = sorted({file for pattern in GEMMA_PATTERNS for file in path.glob(pattern) if file.is_file()})
            told = [f"{file.name} {fingerprint(file)}\n" for file in files]
            return hashlib.sha256("".join(told).encode("utf-8", "surrogatepass")).hexdigest()
        size = path.stat().st_size
        total = hashlib.sha256(f"{size}\n".encode())
        if size <= _SAMPLES * _SAMPLE:
            total.update(path.read_bytes())
            return total.hexdigest()
        for i in range(_SAMPLES):
            total.update(_hash(path, (size - _SAMPLE) * i // (_SAMPLES - 1), _SAMPLE))
        return total.hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
