"""The videos of one command line: their prompts and seeds, and the names of their files."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..config.reading import cut
from ..distributed.ranks import rank_here
from ..errors import HubError
from ..loading.hub import expanded
from .terminal import Parser

_MOST = 1000
_LONGEST = 4_000_000  # characters of a file of prompts


class Video(NamedTuple):
    """One video: its prompt, its seed, and what its files have behind their names."""

    prompt: str
    seed: int
    mark: str


def videos(parser: Parser, values: dict[str, Any]) -> list[Video]:
    """The videos of the flags, which are taken out of ``values``: each prompt with each seed. Exits with a message for
    flags that make no sense together."""
    given, file = values.pop("prompt"), values.pop("prompts_file")
    if given is not None and file is not None:
        parser.error("--prompt and --prompts-file: give one of them")
    if given is None and file is None:
        parser.error("the following arguments are required: --prompt (or --prompts-file)")
    if file == "-" and (values.get("hosts") or rank_here() is not None):
        parser.error("--prompts-file -: the standard input of one of several processes has no end; give a file")
    prompts = [given] if file is None else _prompts(parser, file)
    seeds = _seeds(parser, values)
    if (count := len(prompts) * len(seeds)) > _MOST:
        parser.error(f"{count:,} videos, expected {_MOST:,} at most")
    by_number, by_seed = len(prompts) > 1, len(seeds) > 1
    return [
        Video(prompt, seed, (f"-{number}" if by_number else "") + (f"-seed{seed}" if by_seed else ""))
        for number, prompt in enumerate(prompts, 1)
        for seed in seeds
    ]


def _seeds(parser: Parser, values: dict[str, Any]) -> list[int]:
    count, given = values.pop("num_videos"), values.pop("seed")
    seeds = given if isinstance(given, list) else [given]
    if count is not None:
        if len(seeds) > 1:
            parser.error(f"--num-videos {count} and {len(seeds)} seeds: give one of them")
        if not 1 <= count <= _MOST:
            parser.error(f"--num-videos is {cut(str(count))}, expected 1 to {_MOST:,}")
        seeds = [seeds[0] + number for number in range(count)]
    if len(set(seeds)) < len(seeds):
        parser.error("--seed: a seed is given twice, and would give the same video")
    if len(seeds) > 1 and min(seeds) < 0:
        parser.error(f"--seed {min(seeds)}: seeds of several videos are 0 or more")
    return seeds


def _prompts(parser: Parser, file: str) -> list[str]:
    """The lines of a file, or of the standard input, that are not empty."""
    try:
        if file == "-":
            text = sys.stdin.read(_LONGEST)
        else:
            with expanded(file).open(encoding="utf-8-sig") as lines_of:  # a pipe is as good as a file
                text = lines_of.read(_LONGEST)
    except UnicodeDecodeError:
        parser.error(f"--prompts-file {cut(file)}: not a text in UTF-8; save it as one")
    except (OSError, ValueError, AttributeError, HubError) as error:  # not there, a null byte, a closed stdin, ~nobody
        parser.error(f"--prompts-file {cut(file)}: {getattr(error, 'strerror', None) or error}")
    if len(text) == _LONGEST:
        parser.error(f"--prompts-file {cut(file)}: more than {_LONGEST:,} characters; a prompt is a line")
    lines = [line.strip() for line in text.splitlines()]
    if not (prompts := [line for line in lines if line]):
        parser.error(f"--prompts-file {cut(file)}: it has no prompt; a prompt is a line")
    return prompts


# ---- names --------------------------------------------------------------------------------------------------------


def with_mark(path: Path, mark: str) -> Path:
    """``fox.mp4`` → ``fox-seed7.mp4``."""
    return path.with_name(f"{path.stem}{mark}{path.suffix}") if mark else path


def named_after(videos: Sequence[Video]) -> Path:
    """A name for an output that was given none: the first words of the prompt, and the seed where there is one."""
    words = re.findall(r"\w+", videos[0].prompt.lower().encode("ascii", "ignore").decode())
    name = "-".join(words)[:40].rstrip("-_") or "video"
    one_seed = len({video.seed for video in videos}) == 1
    return Path.cwd() / (f"{name}-seed{videos[0].seed}.mp4" if one_seed else f"{name}.mp4")
