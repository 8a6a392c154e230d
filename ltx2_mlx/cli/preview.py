"""``--preview``: writes a small picture of the video after a step of denoising."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from ..errors import InputError, LTX2Error
from ..media.outputs import check_beside, whole_file
from ..pipelines.ledger import Denoised
from ..pipelines.preview import LatentColours

_PICTURE = re.compile(r"(stage-\d|denoising)-\d+\.png")  # the names in a folder


def check_preview(path: Path, output: Path, *, overwrite: bool, inputs: Iterable[str | Path]) -> None:
    """Raises InputError where pictures cannot be written to ``path``, or something would be lost."""
    if path.suffix.lower() not in (".png", ""):
        raise InputError(f"--preview {path}: ends in {path.suffix}; use .png, or a folder's name for a picture a step")
    check_beside("--preview", path, output, inputs)
    if path.suffix and path.exists():
        if not path.is_file():
            raise InputError(f"--preview {path}: not a file; give another name")
        if not overwrite:
            raise InputError(f"--preview {path} exists; give another name, or --overwrite to replace it")
    if not path.suffix and path.exists():
        if not path.is_dir():
            raise InputError(f"--preview {path}: a file, expected a folder or a name that ends in .png")
        there = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))
        if other := next((name for name in there if not _PICTURE.fullmatch(name)), None):
            raise InputError(f"--preview {path}: a folder that holds {other}; give a new or empty folder")
        if there and not overwrite:
            raise InputError(f"--preview {path} has pictures; give another name, or --overwrite to replace them")


class Preview:
    """Writes pictures to ``path``: a .png file that each replaces, or a folder that keeps all. Each is written whole or
    not at all. every: after each so many steps, and the last of a stage. wrote: gets each picture's path and step.
    failed: gets what went wrong, once; the run goes on without pictures."""

    def __init__(
        self,
        path: Path,
        every: int,
        colours: LatentColours,
        wrote: Callable[[Path, Denoised], None],
        failed: Callable[[str], None],
    ):
        self.path, self.every, self.colours, self.wrote, self.failed = path, every, colours, wrote, failed
        self.broken = False
        if not path.suffix and path.is_dir():  # those of the run before
            for entry in path.iterdir():
                if _PICTURE.fullmatch(entry.name):
                    entry.unlink(missing_ok=True)

    def __call__(self, step: Denoised) -> None:
        if self.broken or (step.step % self.every and step.step != step.steps):
            return
        path = self.path
        if not path.suffix:
            digits = len(str(step.steps))
            path /= f"{step.stage.replace(' ', '-')}-{step.step:0{digits}d}.png"
        try:
            with whole_file(path) as part:
                self.colours.picture(step.latent).save(part, format="PNG")
        except LTX2Error as error:
            self.broken = True
            self.failed(f"no more previews: {error}")
        else:
            self.wrote(path, step)
