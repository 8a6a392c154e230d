"""``ltx2-mlx info``: the components of a checkpoint and whether each is whole; or what made a video."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from math import prod
from pathlib import Path

from ..config.reading import cut
from ..errors import MediaError, WeightsError, printable
from ..loading.checkpoint import PREFIXES, WITHIN, CheckpointPath, read_checkpoint
from ..loading.load import COMPONENTS, SHARED, build, weight_shapes
from ..loading.quantized import packed_layers, said_of
from ..media.outputs import MOVIES, SETTINGS
from ..media.reading import Coding, probe, read_coding
from .settings_file import read, shown


def info(path: CheckpointPath) -> str:
    """A table of the checkpoint's components. Raises CheckpointError where one is not whole."""
    checkpoint = read_checkpoint(path)
    version, config = checkpoint.version, checkpoint.config
    parts = checkpoint.components()
    if unknown := parts.get(""):
        names = list(unknown)
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        raise WeightsError(f"{path}: left over, of no known component: {', '.join(map(cut, names[:8]))}{more}")
    states, numbers = {}, {}
    for part in dict.fromkeys(PREFIXES.values()):
        if elsewhere := _elsewhere(part, parts):
            states[part] = f"in part: what begins with {' and '.join(elsewhere)} is in another file"
        elif part in COMPONENTS and checkpoint.holds(part):
            module, keys = build(part, checkpoint)
            packed = packed_layers(module)
            states[part] = "whole: every key used once, every shape right"
            if packed:
                states[part] += f"; {len(packed):,} layers in {said_of(packed.values())}"
                shapes = weight_shapes(module, {name: checkpoint.tensors[key] for name, key in keys.items()})
                numbers[part] = sum(map(prod, shapes.values()))
        elif users := [c for c, shared in SHARED.items() if part in shared.values()]:
            states[part] = f"used by {' and '.join(users)}" if part in parts else "missing"
        else:
            states[part] = "present, not checked: this version does not build it" if part in parts else "missing"
    stated = "" if "model_version" in checkpoint.metadata else " (not stated; read as ltx-pipelines reads it)"
    total = sum(tensor.nbytes for tensor in checkpoint.tensors.values())
    lines = [f"{path}", f"  version   {version}{stated}", f"  sections  {cut(', '.join(config), 200)}"]
    lines += [f"  tensors   {gigabytes(total)}", ""]
    lines.append(f"  {'component':<20}{'tensors':>8}{'parameters':>16}{'size':>11}  {'dtypes':<10} state")
    for part, state in states.items():
        tensors = [checkpoint.tensors[key] for key in parts.get(part, {}).values()]
        parameters = numbers.get(part, sum(prod(tensor.shape) for tensor in tensors))
        dtypes = "/".join(sorted({tensor.dtype for tensor in tensors})) or "-"
        size = gigabytes(sum(tensor.nbytes for tensor in tensors))
        lines.append(f"  {part:<20}{len(tensors):>8}{parameters:>16,}{size:>11}  {dtypes:<10} {state}")
    return "\n".join(map(printable, lines))


def _elsewhere(part: str, parts: Mapping[str, Mapping[str, str]]) -> list[str]:
    """The prefixes of a component that is spread over several, as the text connectors and the projection before them
    are, of which a transformer's own file holds others only. parts: ``Checkpoint.components``."""
    own = {prefix: path for prefix, path in WITHIN.items() if PREFIXES[prefix] == part}
    if parts.keys() != {"transformer", part}:
        return []
    lacking = [prefix for prefix, path in own.items() if not any(name.startswith(path) for name in parts[part])]
    return lacking if len(lacking) < len(own) else []


def gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.2f} MB"


def is_output(path: Path) -> bool:
    """True for what ``generate`` writes, by its name; for a folder, by what is in it."""
    with suppress(OSError, ValueError):  # what no path can be, reading it says
        if path.is_dir():
            return (path / SETTINGS).exists() or any(path.glob("frame_*.png"))
    return path.suffix.lower() in (*MOVIES, ".wav", ".json")


def made_by(path: Path) -> str:
    """What is in a video, a WAV file, a folder of frames or a JSON file of settings, and the settings that made it.
    Raises MediaError for a file that cannot be read, or a JSON file without settings."""
    lines = [str(path)]
    if path.suffix.lower() == ".json":
        return "\n".join(map(printable, [*lines, *shown(read(path))]))
    if path.is_dir():
        lines.append(f"  frames    {sum(1 for _ in path.glob('frame_*.png'))} PNG files")
    else:
        found, coding = probe(path), read_coding(path)
        if found.frames and found.fps:
            size = f"{found.frames} frames of {found.height}x{found.width}, {float(found.fps):g} per second"
            lines.append(f"  video     {size}; {coding.video}, {coding.pix_fmt}, {_colours(coding)}")
        if found.samples and found.sample_rate:
            seconds = f"{found.samples / found.sample_rate:.2f} s at {found.sample_rate} Hz"
            lines.append(f"  audio     {seconds}; {coding.audio}, {found.channels} channels")
    try:
        lines += shown(read(path))
    except MediaError as error:
        lines.append(f"  settings  none: {str(error).removeprefix(f'{path}: ')}")
    return "\n".join(map(printable, lines))


def _colours(coding: Coding) -> str:
    """The colours that a stream states, in words."""
    *kinds, limits = coding.colours or (2, 2, 2, 0)
    said = "/".join(
        dict.fromkeys({1: "BT.709", 2: "not stated", 5: "BT.601", 6: "BT.601"}.get(k, str(k)) for k in kinds)
    )
    return f"colours {said}, {('range not stated', 'limited range', 'full range')[limits] if limits < 3 else limits}"
