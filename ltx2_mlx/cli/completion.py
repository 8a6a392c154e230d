"""All commands and flags as one parser, from which ``shtab`` writes a shell's completion."""

from __future__ import annotations

from .main import _parser
from .recipes import RECIPES
from .recipes import parser as parser_of
from .terminal import Parser

_FILES = (
    *("path", "root", "lora", "loras", "images", "video_conditioning"),
    *("context", "preview", "prompts_file", "hosts"),
)


def parser() -> Parser:
    """The parser of ``ltx2-mlx``; ``generate`` and ``plan`` have the flags of every pipeline."""
    made = _parser()
    commands = made.commands()
    for command in ("generate", "plan"):
        known = commands[command].flags()
        for name in RECIPES:
            for action in parser_of(command, name)._actions:
                if action.option_strings and action.option_strings[0] not in known:
                    commands[command]._add_action(action)
                    known += action.option_strings
    for each in commands.values():
        for action in each._actions:
            if action.dest.endswith(_FILES) and action.nargs != 0:
                action.complete = FILE  # type: ignore[attr-defined]
    return made


FILE = {"bash": "_shtab_compgen_files", "zsh": "_files", "tcsh": "f"}  # shtab.FILE, without which this can be imported
