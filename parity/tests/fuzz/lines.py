"""Command lines of both programs, and light work in the place of what they would begin."""

from __future__ import annotations

import argparse
import inspect
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from parity.declare.inputs import FIXTURES, GEMMA
from parity.judge.results import Row

from . import mutate
from .harness import TRACE, results, score
from .reading import Format, command, refuse

LINES = [
    ["diff", "whole-False.json", "whole-True.json", "--factor", "2", "--floor", "1"],
    ["report", "whole-False.json"],
    ["accept", "whole-False.json"],
    ["tables", "whole-False.json", "score.json", "document.md"],
    ["explain", "first", "--results", "whole-True.json", "--seed", "1"],
    ["bisect", "transformer", "tiny-2.0", "base", "A", "tap0", "--out", "found"],
    ["check", "trace.json", "--json", "new/results.json", "--jobs", "1", "--device", "cpu"],
    ["run", "--stage", "patchifiers", "--lane", "A", "--json", "new/results.json", "--seed", "1", "--jobs", "1"],
    ["record", "patchifiers:any:states", "--out", "made.json", "--lane", "A", "--seed", "1"],
    ["margins", "--stage", "patchifiers", "--seeds", "1", "--jobs", "1"],
    ["selftest", "--only", "A01", "--sample", "1", "--json", "new/selftest.json", "--seed", "1", "--gate", "1"],
    ["debug", "sync", "--frames", "121", "--fps", "24"],
    ["debug", "video", "frames.npy", "--plot", "new/plot.png"],
]


def _line(folder: Path, rng: random.Random) -> list[str]:
    return mutate.words(rng.choice(LINES), rng)


def _run_line(argv: list[str]) -> None:
    if any(word in argv for word in ("-h", "--help", "--version")):
        return
    refuse(command(argv))


def prepare(put: Callable[[Any, str, Any], None] = setattr) -> None:
    """The files that command lines name, in this folder, and light work in the place of heavy."""
    from ltx2_mlx.cli import making
    from parity.commands import bisect, record, selftest
    from parity.debug import finding
    from parity.faults import likely_causes
    from parity.faults.score import Score
    from parity.run import calibration, loop

    results(False).write(Path("whole-False.json"))
    results(True).write(Path("whole-True.json"))
    Path("score.json").write_text(json.dumps(score()))
    Path("document.md").write_text(
        "".join(f"<!-- {n}: start -->\n<!-- {n}: end -->\n" for n in ("parity", "selftest", "symptoms"))
    )
    np.save("frames.npy", np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype(np.uint8))
    shutil.copytree(TRACE.with_suffix(""), "trace", dirs_exist_ok=True)
    shutil.copy(TRACE, "trace.json")
    Path("folder").mkdir(exist_ok=True)
    for name, make in (("fifo", os.mkfifo), ("loop", lambda at: os.symlink(at, at)), ("gone", _to_nothing)):
        if not os.path.lexists(name):
            make(name)
    explained = likely_causes.Explanation(Row("t", "s", "c", "base", "A", 0, 0, ""))
    light: dict[tuple[Any, str], Any] = {
        (loop, "judge_cells"): lambda *a, **k: results(False),
        (loop, "measure"): lambda *a, **k: results(False).device,
        (calibration, "measure"): lambda *a, **k: results(False).device,
        (bisect, "_found"): lambda runner, place, out: 0,
        (likely_causes, "explain"): lambda place, runner: explained,
        (likely_causes, "explain_first"): lambda found: None,
        (record, "write"): lambda out, *rest: _written(out),
        (selftest, "run"): lambda *a, **k: Score(0, []),
        (selftest.gate, "measure"): lambda *a, **k: None,
        (selftest, "show"): lambda *a, **k: None,
        (finding, "draw"): lambda found, path: path,
        (making, "make"): lambda plan, display, ranks: iter([each.output_path for each in plan.requests]),
    }
    for (module, name), stand_in in light.items():
        taken, real = (inspect.signature(f).parameters for f in (stand_in, getattr(module, name)))
        open_ended = any(parameter.kind is parameter.VAR_POSITIONAL for parameter in taken.values())
        if not open_ended and len(taken) != len(real):  # or each of its cases would look like a fault
            raise TypeError(f"the stand-in for {name} takes {list(taken)}, and {name} takes {list(real)}")
        put(module, name, stand_in)


def _to_nothing(at: str) -> None:
    os.symlink("nothing", at)


def _written(out: Path) -> dict[str, int]:
    from parity.judge.files import write_whole

    write_whole(out, "{}")
    return {"patchifiers any": 1}


# ---- the product's --------------------------------------------------------------------------------------------------

NEEDED = {
    "checkpoint_path": [FIXTURES / "tiny-2.0.safetensors"],
    "gemma_root": [GEMMA],
    "prompt": ["a fox"],
    "spatial_upsampler_path": [FIXTURES / "tiny-2.0-upsampler-x2.safetensors"],
    "distilled_lora": [FIXTURES / "tiny-2.0-distilled-lora.safetensors"],
    "video_conditioning": [FIXTURES / "media" / "clip.mp4", "0.9"],
    "audio_path": [FIXTURES / "media" / "audio.wav"],
    "video_path": [FIXTURES / "media" / "clip.mp4"],
    "start_time": ["0.2"],
    "end_time": ["0.5"],
    "height": ["64"],
    "width": ["64"],
    "num_frames": ["9"],
    "num_inference_steps": ["2"],
    "video_stg_blocks": ["1"],
    "audio_stg_blocks": ["1"],
    "output_path": ["made.mp4"],
}
# A little within and a little past what is refused somewhere.
EDGES = [
    "-1",
    "0",
    "1",
    "2",
    "8",
    "9",
    "10",
    "50",
    "51",
    "52",
    "63",
    "64",
    "65",
    "96",
    "128",
    "100",
    "100.001",
    "-100.1",
]
EDGES += ["0.001", "0.00099", "1000", "1000.01", "1001", "0.5", "1.0001", "-0.0001", "0.68", "0.681", "1000000", "1e6"]
EDGES += [str(2**63 - 1), str(2**63), str(-(2**63)), str(-(2**63) - 1), str(2**64), "1e-45", "0.1e1", "1_0", "+1"]
KINDS = {"image": "image-0.png", "clip": "clip.mp4", "audio": "audio.wav"}


def _product_line(command: str) -> Callable[[Path, random.Random], list[str]]:
    """A whole command line of any pipeline, with up to five more of its flags; in two of three, then changed."""

    def make(folder: Path, rng: random.Random) -> list[str]:
        from ltx2_mlx.cli import recipes

        name = rng.choice(list(recipes.RECIPES))
        actions = [a for a in recipes.parser(command, name)._actions if a.option_strings and a.dest != "help"]
        line = ["--pipeline", name]
        for action in actions:
            if action.dest in NEEDED:
                line += [action.option_strings[0], *map(str, NEEDED[action.dest])]
        for action in rng.sample(actions, rng.choice((0, 1, 1, 2, 5))):
            line += [action.option_strings[0], *_values(action, rng)]
        if "--prompts-file" in line:  # in its place
            at = line.index("--prompt")
            del line[at : at + 2]
        if rng.random() < 0.66:
            line = mutate.words(line, rng)
        return [command, *line]

    return make


def _values(action: argparse.Action, rng: random.Random) -> list[str]:
    """Words for a flag: as many as it takes, mostly of its kind."""
    if action.nargs == 0:
        return []
    if action.choices and rng.random() < 0.8:
        return [rng.choice(list(action.choices))]
    files = [str(FIXTURES / "media" / name) for name in KINDS.values()]
    files += [str(FIXTURES / name) for name in ("tiny-2.0.safetensors", "tiny-2.0-lora.safetensors", "tiny-gemma")]
    files += [str(GEMMA), "folder", "fifo", "loop", "gone", "/dev/zero", "/dev/null", "/proc/self/mem", "made.wav"]
    count = 1 if action.nargs is None else rng.randrange(4)
    kind = EDGES if action.type in (int, float) else files
    return [rng.choice(kind if rng.random() < 0.7 else rng.choice((EDGES, mutate.WORDS))) for _ in range(count)]


def _settings_line(folder: Path, rng: random.Random) -> list[str]:
    """``--config`` with the settings of some pipeline, changed, in a file or beside PNG frames."""
    from ltx2_mlx.cli import recipes, settings_file

    name = rng.choice(list(recipes.RECIPES))
    every = recipes.parser("plan", name)._actions
    actions = [a for a in every if a.option_strings and a.nargs != 0 and (rng.random() < 0.01 or not _refused(a))]
    here = (*settings_file.OF_THIS_RUN, "pipeline")
    wanted = [a for a in actions if rng.random() < (0.01 if a.dest in here else 1 if a.dest in NEEDED else 0.1)]
    given = {a.option_strings[0].removeprefix("--"): _setting(a, rng) for a in wanted}
    files = {Path(str(v)).name: "0" * 64 for v in given.values() if isinstance(v, str) and rng.random() < 0.1}
    given = mutate.tree(given, rng) if rng.random() < 0.5 else given
    settings = {"pipeline": name, **given} if isinstance(given, dict) else given
    content = {"format": settings_file.FORMAT, "arguments": settings, "files": files}
    at = folder / rng.choice(("settings.json", "frames"))
    path = at
    if not at.suffix:
        at.mkdir(exist_ok=True)
        path = at / settings_file.SETTINGS
    path.write_bytes(mutate.text(content, rng) if rng.random() < 0.4 else json.dumps(content).encode())
    return [rng.choice(("plan", "plan", "generate")), "--config", str(at), "--output-path", "made.mp4"]


def _refused(action: argparse.Action) -> bool:
    from ltx2_mlx.cli.values import Refused

    return isinstance(action, Refused)


def _setting(action: argparse.Action, rng: random.Random) -> Any:
    values = [str(v) for v in NEEDED[action.dest]] if action.dest in NEEDED else _values(action, rng)
    plain: list[Any] = []
    for text in values:
        try:
            plain.append(json.loads(text))
        except ValueError:
            plain.append(text)
    return plain[0] if len(plain) == 1 else plain


def _info_line(folder: Path, rng: random.Random) -> list[str]:
    parts = ("--transformer-path", "--text-encoder-path", "--video-vae-path", "--audio-vae-path")
    line = [str(FIXTURES / rng.choice(("tiny-2.0.safetensors", "tiny-2.3-lora.safetensors", "media", "none")))]
    for part in rng.sample(parts, rng.randrange(3)):
        line += [part, rng.choice((str(FIXTURES / "tiny-2.0.safetensors"), "fifo", "loop", "folder", "gone"))]
    return ["info", *mutate.words(line, rng)]


def _run_product(argv: list[str]) -> None:
    if not any(word in argv for word in ("-h", "--help", "--version")):
        refuse(command(argv, "ltx2-mlx"))


FORMATS = {
    "parity's command line": Format(8, _line, _run_line),
    "ltx2-mlx plan": Format(8, _product_line("plan"), _run_product),
    "ltx2-mlx generate": Format(8, _product_line("generate"), _run_product),
    "ltx2-mlx info": Format(2, _info_line, _run_product),
    "settings": Format(4, _settings_line, _run_product),
}
