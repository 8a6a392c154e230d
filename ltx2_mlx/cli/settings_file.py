"""The settings of a run as a text that travels with its video, and is turned into a command line again.

``{"format": …, "arguments": {"prompt": "…", "seed": 10, "image": [["first.png", 0, 1.0]]}, "files": …}``: flags without
their dashes. What is read becomes words of the command line, so that it passes the same parser and the same checks,
and what is typed as well comes after it and wins. Nothing that is read can say where something is written.

Files are named without their folders, which nobody else needs to know, and with their fingerprints, by which they are
found again: beside the settings, in the current folder, or in the list of ``places``.
"""

from __future__ import annotations

import argparse
import difflib
import json
import platform
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..config.reading import cut, parse_json, short
from ..errors import HubError, InputError, LTX2Error, MediaError
from ..loading.hub import GEMMA_PATTERNS, expanded, on_hub, resolve
from ..loading.identity import fingerprint
from ..loading.lora import LoraPathStrength
from ..media.files import regular_file
from ..media.outputs import SETTINGS
from ..media.reading import read_comment
from . import places
from .request import Request
from .terminal import Parser
from .values import Refused, Values, bare_lora, local_path

FORMAT = "ltx2-mlx-settings/1"
_LONGEST = 1 << 20  # bytes of settings
_KEYS = {"format": str, "arguments": dict, "files": dict, "versions": dict}
# Where a run writes, what it replaces and what it reads its settings from is said for each run anew.
OF_THIS_RUN = (
    *("output_path", "overwrite", "context", "config", "without", "metadata", "help"),
    *("num_videos", "prompts_file", "preview", "preview_every", "quiet", "json", "yes", "ranks", "parallel", "hosts"),
)


@dataclass(frozen=True)
class Recorded:
    """Settings as they were read. arguments: flag without dashes → value. files: name → fingerprint."""

    path: Path
    arguments: dict[str, Any]
    files: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


# ---- writing ------------------------------------------------------------------------------------------------------


def arguments(parser: Parser, values: dict[str, Any]) -> dict[str, Any]:
    """The parsed ``values`` that say what is made, by flag, as JSON has them. Files are still paths."""
    result: dict[str, Any] = {}
    for action in parser._actions:
        value = values.get(action.dest)
        if action.dest in OF_THIS_RUN or not action.option_strings or value is None or isinstance(action, Refused):
            continue
        if action.nargs == 0:
            value = True if value == action.const else None
        elif isinstance(action, Values):
            value = [_fields(use) for use in value] or None
        elif isinstance(value, (list, tuple)):
            value = [_fields(item)[0] if isinstance(item, LoraPathStrength) else item for item in value]
        if value is not None:
            result[_key(action)] = value
    return result


def _key(action: argparse.Action) -> str:
    return action.option_strings[0].removeprefix("--")


def _fields(value: Any) -> list[Any]:
    """The parts of an image, a LoRA or a path with its strength."""
    return [str(value.path), value.strength] if isinstance(value, LoraPathStrength) else list(value)


def recorded(request: Request, parser: Parser) -> tuple[str, dict[str, str]]:
    """The settings of a request as JSON in ASCII, and the paths of its files by their fingerprints."""
    known = {
        "num_inference_steps": request.steps,
        "video_stg_blocks": list(request.video_guidance.stg_blocks or ()),
        "audio_stg_blocks": list(request.audio_guidance.stg_blocks or ()),
        "negative_prompt": request.avoided,
        "behaviour": request.behaviour,
    }
    given = {**request.arguments, "prompt": request.prompt, "seed": request.seed}
    if request.images:
        given["image"] = [list(image) for image in request.pictures]
    files, paths = dict[str, str](), dict[str, str]()

    def named(path: str, patterns: Sequence[str] | None) -> str:
        try:
            there = resolve(path, patterns, download=False)
        except HubError:
            return path
        mark = fingerprint(there)
        name = path if on_hub(path, patterns) else there.name
        while files.setdefault(name, mark) != mark:  # two files of one name
            name = f"_{name}"
        paths[mark] = str(there.absolute())
        return name

    for action in parser._actions:
        key = _key(action) if action.option_strings else ""
        if known.get(action.dest) is not None and not isinstance(action, Refused):
            given.setdefault(key, known[action.dest])
        if key in given:
            given[key] = _with_files(action, given[key], named)
    order = [_key(action) for action in parser._actions if action.option_strings]
    given = {key: given[key] for key in order if key in given}
    content = {"format": FORMAT, "arguments": given, "files": files, "versions": _versions()}
    return json.dumps(content), paths


def _with_files(action: argparse.Action, value: Any, change: Callable[[str, Sequence[str] | None], str]) -> Any:
    """A flag's value with ``change`` made to each path in it."""
    patterns = GEMMA_PATTERNS if action.dest == "gemma_root" else None
    if isinstance(action, Values):
        fields = value if isinstance(value, list) else [value]
        uses = fields if fields and all(isinstance(use, list) for use in fields) else [fields]
        return [[change(use[0], patterns), *use[1:]] if use and isinstance(use[0], str) else use for use in uses]
    if action.type is bare_lora and isinstance(value, list):
        return [change(path, patterns) if isinstance(path, str) else path for path in value]
    return change(value, patterns) if action.type is local_path and isinstance(value, str) else value


def _versions() -> dict[str, str]:
    result = {"ltx2-mlx": __version__, "python": platform.python_version(), "machine": platform.machine()}
    for package in ("mlx", "av"):
        with suppress(PackageNotFoundError):
            result[package] = version(package)
    return result


# ---- reading ------------------------------------------------------------------------------------------------------


def read(path: Path) -> Recorded:
    """The settings in a video, in a WAV file, beside PNG frames (in their folder), or in a JSON file of their own.
    Raises InputError or MediaError, in one line, for anything else."""
    text = _text(path)
    if text is None or not text.lstrip().startswith("{"):
        raise MediaError(f"{path}: holds no settings of ltx2-mlx")
    if len(text) > _LONGEST:
        raise MediaError(f"{path}: settings of {len(text):,} characters, expected {_LONGEST:,} at most")
    content = parse_json(text, f"{path}: its settings", MediaError)
    if (found := content.get("format")) != FORMAT:
        raise MediaError(f"{path}: its settings have the format {short(found)}; this version reads {FORMAT!r}")
    for key, value in content.items():
        if key not in _KEYS or not isinstance(value, _KEYS[key]):
            raise MediaError(f"{path}: its settings have {cut(repr(key))}: {short(value)}; expected {_expected(key)}")
    for key in ("files", "versions"):
        for name, value in content.get(key, {}).items():
            if not isinstance(value, str):
                raise MediaError(f"{path}: {key} of its settings: {cut(repr(name))} is {short(value)}, expected a text")
    if "arguments" not in content:
        raise MediaError(f"{path}: its settings have no 'arguments'")
    return Recorded(path, content["arguments"], content.get("files", {}), content.get("versions", {}))


def _expected(key: str) -> str:
    return "an object" if key in _KEYS else f"{', '.join(_KEYS)} alone"


def _text(path: Path) -> str | None:
    if path.is_dir():
        path = path / SETTINGS
    head = regular_file(path)
    if not head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
        return read_comment(path)
    try:
        with open(path, "rb") as file:
            return file.read(4 * _LONGEST).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise MediaError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None


def merged(argv: Sequence[str], command: str, default: str, parser_of: Callable[[str], Parser]) -> list[str]:
    """The words of a command line, after those of the settings that its ``--config`` names. parser_of: pipeline → its
    parser. Raises InputError for what cannot be a flag or is none of the pipeline's."""
    first = Parser(prog=f"ltx2-mlx {command}", add_help=False, allow_abbrev=False)
    first.add_argument("--config")
    first.add_argument("--without", nargs="+", default=[])
    first.add_argument("--pipeline")
    known, _ = first.parse_known_args([word for word in argv if word not in ("-h", "--help")])
    without = [name.removeprefix("--") for name in known.without]
    if known.config is None or {"-h", "--help"} & set(argv):
        if without and known.config is None:
            raise InputError("--without leaves out flags of a --config, and none is given")
        return list(argv)
    settings = read(expanded(known.config))
    if unknown := next((name for name in without if name not in settings.arguments), None):
        have = cut(", ".join(settings.arguments), 400)
        raise InputError(f"--without {unknown}: {settings.path} has no such setting; it has {have}")
    name = known.pipeline or settings.arguments.get("pipeline", default)
    kept = {key: value for key, value in settings.arguments.items() if key not in ("pipeline", *without)}
    typed = {word.partition("=")[0] for word in argv if word.startswith("--")}
    words = [] if known.pipeline else [f"--pipeline={_word('pipeline', name, settings.path)}"]
    try:
        parser = parser_of(name)
    except (KeyError, TypeError):
        raise InputError(f"{settings.path}: there is no pipeline {short(name)}") from None
    flags = {option: action for action in parser._actions for option in action.option_strings}
    lost = list[str]()
    for key, value in kept.items():
        action = flags.get(f"--{key}")
        if action is None or not re.fullmatch(r"[a-z0-9-]+", key) or isinstance(action, Refused):
            near = difflib.get_close_matches(key, [option.removeprefix("--") for option in flags], 1)
            hint = f"; did you mean {near[0]}?" if near else f"; --without {key} leaves it out"
            raise InputError(f"{settings.path}: {cut(repr(key))} is no setting of {name}{cut(hint)}")
        if action.dest in OF_THIS_RUN:
            raise InputError(f"{settings.path}: {key} is not taken from settings; give --{key} on the command line")
        if not typed.isdisjoint(action.option_strings):
            continue
        found = _with_files(action, value, partial(_found, settings, key, lost))
        words += _words(key, found, action, settings.path)
    if lost:
        raise InputError(f"{settings.path} was made with files that are not here; give their flags: {'; '.join(lost)}")
    return [*words, *argv]


def _found(settings: Recorded, key: str, lost: list[str], name: str, patterns: Sequence[str] | None) -> str:
    """The path of a file of the settings on this machine. A name without a fingerprint is a path already."""
    mark = settings.files.get(name)
    if mark is None:
        return name
    if on_hub(name, patterns):
        with suppress(LTX2Error):
            if fingerprint(resolve(name, patterns, download=False)) != mark:
                lost.append(f"--{key} {cut(name)} (sha256 {cut(mark, 12)}; what is in the cache now is another)")
        return name
    bare, folder = Path(name).name, settings.path if settings.path.is_dir() else settings.path.parent
    candidates = [folder / bare, Path(bare), Path(places.known().get(mark, bare))]
    for path in candidates:
        with suppress(OSError, ValueError, LTX2Error):
            if (path.is_file() or (patterns and path.is_dir())) and fingerprint(path) == mark:
                return str(path.absolute())
    lost.append(f"--{key} {cut(name)} (sha256 {cut(mark, 12)})")
    return name


def _words(key: str, value: Any, action: argparse.Action, path: Path) -> list[str]:
    """The words of one flag."""
    if value is True or (value is False and action.nargs == 0):
        return [f"--{key}"] if value else []
    if not isinstance(value, list):
        return [f"--{key}={_word(key, value, path)}"]
    uses = value if value and all(isinstance(use, list) for use in value) else [value]
    words = [[_word(key, item, path) for item in use] for use in uses]
    for word in (word for use in words for word in use if word.startswith("-")):
        if not re.fullmatch(r"-\d+|-\d*\.\d+", word):
            raise InputError(f"{path}: {key} has {cut(repr(word))}, which would be taken for a flag")
    return [word for use in words for word in (f"--{key}", *use)]


def _word(key: str, value: Any, path: Path) -> str:
    if isinstance(value, float) and np.isfinite(value):
        return str(np.format_float_positional(value, trim="0"))
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return str(value)
    raise InputError(f"{path}: {key} is {short(value)}, expected a text or a number")


# ---- showing ------------------------------------------------------------------------------------------------------


def shown(settings: Recorded) -> Iterator[str]:
    """The settings as lines."""
    yield "  settings"
    for key, value in settings.arguments.items():
        yield f"    {cut(key, 30):<34} {cut(value if isinstance(value, str) else json.dumps(value), 2000)}"
    if settings.files:
        yield "  files"
        yield from (f"    {cut(name, 120)}  sha256 {cut(mark, 64)}" for name, mark in settings.files.items())
    if settings.versions:
        yield f"  made by   {cut(', '.join(f'{name} {number}' for name, number in settings.versions.items()), 400)}"
