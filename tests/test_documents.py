"""The documents keep their promises: every command in them is run on the tiny files, or at least parsed, and every link
leads somewhere."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from shtab.main import main as shtab

from ltx2_mlx.cli import names
from ltx2_mlx.cli.main import main as ltx2_mlx
from parity.cli import main as ltx2_parity
from parity.cli import parser as parity_parser

ROOT = Path(__file__).parents[1]
# A name in the documents → the tiny file that stands for it.
FILES = {
    "ltx-2-19b-distilled.safetensors": "tiny-2.0.safetensors",
    "ltx-2-19b-dev.safetensors": "tiny-2.0.safetensors",
    "ltx-2-spatial-upscaler-x2-1.0.safetensors": "tiny-2.0-upsampler-x2.safetensors",
    "ltx-2-19b-distilled-lora-384.safetensors": "tiny-2.0-distilled-lora.safetensors",
    "ic-lora.safetensors": "tiny-2.0-ic-lora.safetensors",
    "style.safetensors": "tiny-2.0-lora.safetensors",
    "google/gemma-3-12b-it": "tiny-gemma",
    "gemma-3-12b-it": "tiny-gemma",
    "first.png": "media/image-0.png",
    "depth.mp4": "media/clip.mp4",
    "before.mp4": "media/clip.mp4",
    "wind.wav": "media/audio.wav",
}
# The default models, which commands do not name.
DEFAULTS = {
    names.DISTILLED: "tiny-2.0.safetensors",
    names.UPSAMPLER: "tiny-2.0-upsampler-x2.safetensors",
}
# The size of the videos that are made here, on the command line and in Python.
SMALL = {"height": 64, "width": 64, "num_frames": 9}
SMALL_FLAGS = [word for name, size in SMALL.items() for word in (f"--{name.replace('_', '-')}", str(size))]
# Verbs of the harness that are parsed here and not run, and why. One cheap run is made by the fixture `folder`.
PARSED = {
    "run": "takes ten seconds and more for a stage; make parity runs every cell",
    "record": "runs the reference; parity/tests/test_traces.py records and checks",
    "check": "loads the weights of every recorded cell; parity/tests/test_traces.py",
    "selftest": "judges a whole stage for each fault; parity/tests/test_selftest.py",
    "margins": "runs whole stages, once for each seed; make margins",
    "doctor": "takes a minute and 4 GB; parity/tests/test_doctor.py, and make doctor",
    "explain": "runs a stage on both sides; parity/tests/test_selftest.py",
    "bisect": "runs a stage on both sides many times; parity/tests/test_bisect.py",
    "tables": "needs the results of a whole run and of a selftest; parity/tests/test_gate.py",
}
# Folders that a run fills.
GENERATED = ("fixtures/checkpoints", "reports/latest")
FOLDERS = ("benchmarks", "fixtures", "ltx2_mlx", "parity", "reports", "tests")
DOCUMENTS = sorted(
    path
    for path in (*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md")))
    if not path.relative_to(ROOT).as_posix().startswith(GENERATED)
)
COMMANDS = ("make", "pip", "python", "ltx2-mlx", "ltx2-parity", "mlx.launch")


@dataclass(frozen=True)
class Block:
    """A fenced block of a document: what its first fence calls it, and its text."""

    document: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def blocks(path: Path) -> list[Block]:
    text = path.read_text()
    name = path.relative_to(ROOT).as_posix()
    fences = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(name, text.count("\n", 0, f.start()) + 1, f[1], f[2]) for f in fences]


def prose(path: Path) -> str:
    """The document without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)


def inline(path: Path) -> list[str]:
    """The texts in backquotes within the sentences; a line's end is a blank."""
    return [code.replace("\n", " ") for code in re.findall(r"`([^`]+)`", prose(path))]


def commands(block: Block) -> list[list[str]]:
    lines = block.text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


BLOCKS = [block for path in DOCUMENTS for block in blocks(path)]
pytestmark = pytest.mark.usefixtures("short_prompts", "few_steps", "built_once", "loaded_once")
RUNNABLE = [block for block in BLOCKS if block.language in ("sh", "python")]


@pytest.fixture(scope="module")
def folder(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the documents' commands find the files that they name, and the results of one cheap run."""
    folder = tmp_path_factory.mktemp("documents")
    for name, tiny in (FILES | DEFAULTS).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(checkpoints / tiny)
    (folder / "fixtures").symlink_to(ROOT / "fixtures")
    (folder / "reports").mkdir()
    shutil.copy(ROOT / "reports" / "baseline.json", folder / "reports")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("parity.run.loop.spread", lambda work, tasks, *some, **more: (work(task) for task in tasks))
        assert ltx2_parity(["run", "--stage", "patchifiers", "--lane", "A"]) == 0
    shutil.copytree(folder / "reports" / "latest", folder / "reports" / "yesterday")
    return folder


# ---- commands -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", RUNNABLE, ids=str)
def test_every_block_runs(block: Block, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    if block.language == "python":
        text = block.text
        for name, size in SMALL.items():
            text = re.sub(rf"\b{name}=\d+", f"{name}={size}", text)
        exec(compile(text, str(block), "exec"), {})
        return
    for words in commands(block):
        run(words)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_command_within_a_sentence_is_one(path: Path) -> None:
    for code in inline(path):
        words = shlex.split(code) if code.startswith(tuple(f"{name} " for name in COMMANDS)) else []
        if words:
            parse(words)


def test_blocks_say_what_they_are_and_hold_no_placeholders() -> None:
    for block in BLOCKS:
        assert block.language in ("sh", "python", "text", "mermaid", "toml", "yaml"), f"{block}: a block of which kind?"
        for words in commands(block) if block.language == "sh" else ():
            assert words[0] in COMMANDS, f"{block}: this test cannot run {words[0]}"
            placeholders = [word for word in words if re.search(r"^[A-Z_]{3,}$|^\[|…|^<", word)]
            assert not placeholders, f"{block}: {placeholders} cannot be typed; a synopsis goes into a text block"


def run(words: list[str]) -> None:
    """One command of a block, in the folder that the test is in."""
    if words[0] == "mlx.launch":  # tests/test_ranks.py runs ranks; here it is planned for as many
        assert words[1:3] == ["-n", "2"] and words[3:6] == ["--", "ltx2-mlx", "generate"], words
        words = ["ltx2-mlx", "plan", "--ranks", "2", *words[6:]]
    if words[0] == "ltx2-mlx":
        assert run_product(words[1:]) == 0, words
        return
    if words[:3] == ["python", "-m", "shtab"]:
        assert exit_code(shtab, words[3:]) == 0, words
        return
    argv = harness(words)
    # The debug views beside the reference take ten seconds and more; parity/tests/test_debug.py runs every one.
    slow_view = argv and argv[0] == "debug" and not {"symptoms", "--without-reference"} & set(argv)
    if argv is None or argv[0] in PARSED or slow_view:
        parse(words)
    else:
        assert ltx2_parity(argv) == 0, words


def run_product(argv: list[str]) -> int:
    """``ltx2-mlx`` with a small video. Only the distilled pipeline generates. The others take 40 steps and are planned,
    which checks the same flags and files."""
    if "--help" in argv or argv[0] == "info":
        return exit_code(ltx2_mlx, argv)
    if argv[0] == "convert":  # the channels of the tiny files are no multiple of 64
        return exit_code(ltx2_mlx, [*argv, "--group-size", "32", "--overwrite"])
    pipeline = argv[argv.index("--pipeline") + 1] if "--pipeline" in argv else "distilled"
    command = argv[0] if pipeline == "distilled" else "plan"
    return ltx2_mlx([command, *argv[1:], *tiny_flags(pipeline)])


def tiny_flags(pipeline: str) -> list[str]:
    """The options a pipeline needs on a tiny checkpoint, which has three blocks where the released ones have 48."""
    size = [] if pipeline == "retake" else SMALL_FLAGS  # a retake has the size of its video
    size = [*size, "--height", "128", "--width", "128"] if pipeline == "ic_lora" else size  # what its LoRA asks for
    streams = {"distilled": (), "ic_lora": (), "a2vid_two_stage": ("video",)}.get(pipeline, ("video", "audio"))
    return ["--overwrite", *size, *(word for stream in streams for word in (f"--{stream}-stg-blocks", "1"))]


def parse(words: list[str]) -> None:
    """Fail for a command that cannot be one."""
    if words[0] == "make":
        parse_make(words)
    elif words[0] == "pip" or words[:3] == ["python", "-m", "pip"]:
        extras = {name for word in words for found in re.findall(r"\[(.*)\]", word) for name in found.split(",")}
        known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert extras <= known.keys(), words
    elif words[0] == "ltx2-mlx":
        assert exit_code(ltx2_mlx, [*words[1:], "--help"]) == 0, words
    elif (argv := harness(words)) is not None:
        verbs = [word for word in argv if word != "…"]  # `debug …` names all of its views
        bare = len(verbs) < 2 or verbs != argv
        assert exit_code(parity_parser().parse_args, [*verbs, "--help"] if bare else argv) == 0, words
    else:
        script, flags = ROOT / words[1], re.findall(r"--[\w-]+", " ".join(words))
        assert script.is_file() and all(f'"{flag}"' in script.read_text() for flag in flags), words


def harness(words: list[str]) -> list[str] | None:
    """The arguments of a command of the harness, under either of its names."""
    if words[0] == "ltx2-parity":
        return words[1:]
    return words[3:] if words[:3] == ["python", "-m", "parity"] else None


def parse_make(words: list[str]) -> None:
    """The target exists, and what it would run of ours can be parsed."""
    own = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKEOVERRIDES", "ARGS")}
    shown = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, env=own)
    assert shown.returncode == 0, shown.stderr
    for line in shown.stdout.replace("\\\n", " ").splitlines():
        if "-m parity " in line:
            command = line.partition("-m parity ")[2].partition(" || ")[0]
            parse(["python", *shlex.split(f"-m parity {command}")])
        elif "-m ltx2_mlx " in line:
            parse(["ltx2-mlx", *shlex.split(line.partition("-m ltx2_mlx ")[2])])


def exit_code(program: Callable[[list[str]], object], argv: list[str]) -> int:
    """The code that ``program`` returns or exits with; 0 where it returns something else."""
    try:
        code = program(argv)
    except SystemExit as stop:
        code = stop.code
    return code if isinstance(code, int) else 0


def test_a_wrong_command_is_noticed() -> None:
    wrong = ("make nothing", "pip install '.[nothing]'", "python -m parity run --nothing", "python -m parity nothing")
    wrong += ("ltx2-mlx nothing", "python fixtures/make.py --nothing", "make parity ARGS=--nothing")
    for command in wrong:
        with pytest.raises(AssertionError):
            parse(shlex.split(command))


# ---- names --------------------------------------------------------------------------------------------------------


def test_every_flag_exists(capsys: pytest.CaptureFixture[str]) -> None:
    pipelines = re.findall(r"^\| `(\w+)`", (ROOT / "ltx2_mlx" / "README.md").read_text(), re.MULTILINE)
    helps = [[ltx2_mlx, ["generate", "--pipeline", name, "--help"]] for name in pipelines]
    helps += [[ltx2_mlx, ["convert", "--help"]], [ltx2_mlx, ["plan", "--help"]]]
    helps += [[ltx2_parity, [verb, "--help"]] for verb in (*PARSED, "report", "diff")]
    helps += [[ltx2_parity, ["debug", view, "--help"]] for view in ("text", "sync")]
    for program, argv in helps:
        assert exit_code(program, argv) == 0, argv
    known = set(re.findall(r"--[\w-]+", capsys.readouterr().out))
    scripts = [*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "fixtures").glob("*.py")]
    known |= {flag for script in scripts for flag in re.findall(r'"(--[\w-]+)"', script.read_text())}
    for path in DOCUMENTS:
        for code in inline(path):
            flag = code.split()[0]
            assert not flag.startswith("--") or flag in known, f"{path.relative_to(ROOT)}: no flag {flag}"


def test_every_path_exists() -> None:
    for path in DOCUMENTS:
        for code in inline(path):
            if re.fullmatch(rf"({'|'.join(FOLDERS)})/[\w./-]*", code) and not code.startswith(GENERATED):
                assert (ROOT / code).exists(), f"{path.relative_to(ROOT)} names {code}"


def test_import_order_is_the_contracts() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    shown = next(b.text for b in BLOCKS if b.document == "ARCHITECTURE.md" and "←" in b.text)
    for contract in contracts:
        if contract["type"] == "layers":
            package = contract["containers"][0]
            line = re.search(rf"^{package}: (.*(?:\n .*)*)", shown, re.MULTILINE)[1]
            layers = [set(layer.split(" | ")) for layer in reversed(contract["layers"]) if layer != "__main__"]
            assert [set(re.findall(r"\w+", layer)) for layer in line.split("←")] == layers, package


def test_every_link_leads_somewhere() -> None:
    for path in DOCUMENTS:
        for link in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
            if link.startswith(("https://", "http://")):
                continue
            name, _, anchor = link.partition("#")
            target = (path.parent / name) if name else path
            assert target.exists(), f"{path.relative_to(ROOT)} links to {link}"
            assert not anchor or anchor in anchors(target), f"{path.relative_to(ROOT)}: no heading for {link}"


def anchors(path: Path) -> set[str]:
    """The headings of a document, as links name them."""
    headings = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_stand_in_is_needed() -> None:
    text = "\n".join(block.text for block in BLOCKS)
    assert [name for name in FILES if name not in text] == []


def test_readme_is_one_screen_or_two() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130
