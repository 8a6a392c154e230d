"""What ``plan`` says of LTX-2.5: of split files on Hugging Face, and of files that state too little."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from ltx2_mlx.cli import plan as planning
from ltx2_mlx.cli.memory import Stage
from ltx2_mlx.cli.plan import Plan, plan
from ltx2_mlx.cli.recipes import parse
from ltx2_mlx.errors import HubError
from ltx2_mlx.loading.header import read_header
from ltx2_mlx.loading.hub import Remote, on_hub, resolve

FILES = {
    "--transformer-path": "tiny-2.5-transformer",
    "--text-encoder-path": "tiny-gemma4",
    "--video-vae-path": "tiny-2.5-video-vae-conv",
    "--audio-vae-path": "tiny-2.5-audio-vae",
}
pytestmark = pytest.mark.usefixtures("short_prompts", "built_once")


def planned(checkpoints: Path, out: Path, **instead: str) -> Plan:
    """The plan of a one-stage video. instead: flag (``text_encoder_path``) → another file."""
    words = ["--pipeline", "ti2vid_one_stage", "--prompt", "a fox", "--output-path", str(out)]
    words += ["--height", "64", "--width", "64", "--num-frames", "9", "--num-inference-steps", "2"]
    words += ["--video-stg-blocks", "1", "--audio-stg-blocks", "1"]
    for flag, name in FILES.items():
        file = instead.pop(flag[2:].replace("-", "_"), str(checkpoints / f"{name}.safetensors"))
        words += [flag, file]
    return plan(parse("plan", words))


@pytest.fixture
def hub(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tiny checkpoint as ``owner/tiny/NAME.safetensors``, none of them downloaded."""

    def not_here(reference: str, patterns: Any = None, download: bool = True) -> Path:
        if reference.startswith("owner/"):
            raise HubError(f"{reference}: not in the cache")
        return resolve(reference, patterns, download)

    def look_up(reference: str, patterns: Any = None) -> Remote:
        metadata, tensors = read_header(checkpoints / reference.removeprefix("owner/tiny/"))
        return Remote(sum(info.nbytes for info in tensors.values()), metadata, tensors)

    monkeypatch.setattr(planning, "resolve", not_here)
    monkeypatch.setattr(planning, "look_up", look_up)


def remote(name: str) -> str:
    return f"owner/tiny/{name}.safetensors"


@pytest.mark.usefixtures("hub")
def test_files_on_hugging_face_are_planned_as_those_that_are_here(checkpoints: Path, tmp_path: Path) -> None:
    assert on_hub(remote("tiny-gemma4"), ("*.json",))  # a text encoder is a file, beside Gemma 3, which is a folder
    here = planned(checkpoints, tmp_path / "x.mp4")
    there = planned(
        checkpoints, tmp_path / "x.mp4", **{flag[2:].replace("-", "_"): remote(name) for flag, name in FILES.items()}
    )
    assert not here.problems and not there.problems and there.request.behaviour == "upstream"
    assert [_row(stage) for stage in there.stages] == [_row(stage) for stage in here.stages]
    assert there.stages[0].what.startswith("Gemma 4") and len(there.remote) == 4


def _row(stage: Stage) -> tuple[str, str, int]:
    return stage.name, stage.what, stage.memory


@pytest.mark.usefixtures("hub")
def test_a_file_on_hugging_face_that_holds_no_gemma_is_refused_before_it_is_fetched(
    checkpoints: Path, tmp_path: Path
) -> None:
    made = planned(checkpoints, tmp_path / "x.mp4", text_encoder_path=remote("tiny-2.3"))
    assert any("holds no Gemma" in problem for problem in made.problems)


@pytest.mark.parametrize("stated", [True, False])
def test_a_plan_says_where_nobody_states_which_gemma_belongs_to_the_checkpoint(
    stated: bool, checkpoints: Path, tmp_path: Path
) -> None:
    instead = {}
    for role, name, key in (
        ("transformer_path", "tiny-2.5-transformer", "gemma_source_checkpoint"),
        ("text_encoder_path", "tiny-gemma4", "gemma_config"),
    ):
        arrays, metadata = mx.load(str(checkpoints / f"{name}.safetensors"), return_metadata=True)
        if not stated:
            metadata[key] = metadata[key].replace("gemma_version", "not_stated")
        instead[role] = str(tmp_path / f"{name}.safetensors")
        mx.save_safetensors(instead[role], arrays, metadata)
    made = planned(checkpoints, tmp_path / "x.mp4", **instead)
    assert not made.problems
    assert any("does not say which text encoder it needs" in note for note in made.notes) == (not stated)
