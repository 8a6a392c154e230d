"""Files of contexts: used where all that made them is the same, refused in one line where anything is not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from ltx2_mlx.cli.main import main
from ltx2_mlx.errors import CheckpointError
from ltx2_mlx.pipelines.contexts import FORMAT, load_contexts, save_contexts
from ltx2_mlx.text.embeddings import EmbeddingsProcessorOutput

PROMPT = "a fox"


@pytest.fixture
def checkpoint(checkpoints: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(checkpoints / "tiny-2.0.safetensors", tmp_path / "model.safetensors"))


@pytest.fixture
def gemma(checkpoints: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoints / "tiny-gemma", tmp_path / "gemma"))


@pytest.fixture
def kept(checkpoint: Path, gemma: Path, tmp_path: Path) -> Path:
    """A file of one context, of the widths of the tiny checkpoint."""
    video, audio = (mx.full((1, 1024, 44), value, mx.bfloat16) for value in (1.0, 2.0))
    context = EmbeddingsProcessorOutput(video, audio, mx.ones((1, 1024)))
    save_contexts(tmp_path / "kept.safetensors", [PROMPT], [context], checkpoint, gemma)
    return tmp_path / "kept.safetensors"


def rewritten(path: Path, change: Callable[[dict[str, np.ndarray], dict[str, Any]], object]) -> None:
    """Change the arrays of a file of contexts (in float32, as NumPy has no bfloat16), or what it says of them."""
    with safe_open(str(path), framework="np") as file:
        metadata = dict(file.metadata())
    arrays = {name: np.array(array.astype(mx.float32)) for name, array in mx.load(str(path)).items()}
    metadata["made"] = json.loads(metadata["made"])
    change(arrays, metadata)
    if not isinstance(metadata["made"], str):
        metadata["made"] = json.dumps(metadata["made"])
    save_file(arrays, str(path), metadata)


def test_contexts_of_the_same_run_are_used(kept: Path, checkpoint: Path, gemma: Path, tmp_path: Path) -> None:
    for folder in (gemma, None):
        assert list(load_contexts(kept, checkpoint, folder)) == [PROMPT]
    elsewhere = shutil.copy(checkpoint, tmp_path / "other.safetensors")  # another file, of the same content
    assert list(load_contexts(kept, elsewhere, shutil.copytree(gemma, tmp_path / "other"))) == [PROMPT]


def change_one_weight(path: Path, prefix: str) -> None:
    with safe_open(str(path), framework="np") as file:
        name = next(key for key in file.keys() if key.startswith(prefix))  # noqa: SIM118  # it is no dict
    data = bytearray(path.read_bytes())
    length = int.from_bytes(data[:8], "little")
    start, end = json.loads(data[8 : 8 + length])[name]["data_offsets"]
    data[8 + length + (start + end) // 2 // 4 * 4] ^= 1
    path.write_bytes(data)


def test_one_changed_weight_of_the_text_side_is_noticed(kept: Path, checkpoint: Path, gemma: Path) -> None:
    change_one_weight(checkpoint, "vae.decoder.")  # no part of the text side
    assert load_contexts(kept, checkpoint, gemma)
    change_one_weight(next(gemma.glob("*.safetensors")), "language_model.model.layers.0")
    assert load_contexts(kept, checkpoint)
    with pytest.raises(CheckpointError, match=f"other text weights than those of {gemma}"):
        load_contexts(kept, checkpoint, gemma)
    change_one_weight(checkpoint, "text_embedding_projection.")
    with pytest.raises(CheckpointError, match=f"other text weights than those of {checkpoint}"):
        load_contexts(kept, checkpoint)


def test_another_tokenizer_is_noticed(kept: Path, checkpoint: Path, gemma: Path) -> None:
    (gemma / "tokenizer.json").write_text((gemma / "tokenizer.json").read_text() + " ")
    with pytest.raises(CheckpointError, match="other text weights"):
        load_contexts(kept, checkpoint, gemma)


def test_another_dtype_or_option_is_noticed(kept: Path, checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="made with --dtype bfloat16, and this run has float32"):
        load_contexts(kept, checkpoint, dtype=mx.float32)
    with pytest.raises(CheckpointError, match="made without --early-layers-only"):
        load_contexts(kept, checkpoint, early_layers_only=True)


def _rename(arrays: dict[str, np.ndarray], metadata: dict[str, Any]) -> None:
    arrays["0.video"] = arrays.pop("0.video_encoding")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda a, m: a.update({"0.video_encoding": np.full((1, 1024, 44), np.nan, np.float32)}), "holds NaN or ∞"),
        (lambda a, m: a.update({"0.audio_encoding": np.full((1, 1024, 44), np.inf, np.float32)}), "holds NaN or ∞"),
        (lambda a, m: a.update({"0.video_encoding": np.ones((1, 1024, 45), np.float32)}), r"expected \(1, 1024, 44\)"),
        (lambda a, m: a.update({"0.video_encoding": np.ones((1024, 44), np.float32)}), "expected"),
        (lambda a, m: a.update({"0.video_encoding": np.ones((1, 9, 44), np.float32)}), "expected"),
        (lambda a, m: a.update({"0.audio_encoding": np.ones((1, 1024, 44), np.int32)}), "made with --dtype int32"),
        (lambda a, m: a.update({"0.attention_mask": np.zeros((1, 1024), np.float32)}), "mask"),
        (lambda a, m: a.update({"0.attention_mask": np.ones((1, 1, 1024), np.float32)}), "expected"),
        (lambda a, m: a.update({"1.video_encoding": np.ones((1, 1), np.float32)}), "belongs to no prompt"),
        (lambda a, m: a.pop("0.audio_encoding"), "audio_encoding of prompt 0 is missing"),
        (_rename, "video_encoding of prompt 0 is missing"),
        (lambda a, m: m["made"].update(prompts=[PROMPT, "another"]), "of prompt 1 is missing"),
        (lambda a, m: m["made"].update(prompts=[PROMPT, PROMPT]), "does not say"),
        (lambda a, m: m["made"].update(prompts={PROMPT: 1}), "does not say"),
        (lambda a, m: m["made"].pop("gemma"), "does not say"),
        (lambda a, m: m["made"].update(gemma=[]), "does not say"),
        (lambda a, m: m["made"].update(early_layers_only=1), "does not say"),
        (lambda a, m: m.update(made="[" * 100_000), "nested too deeply|not JSON"),
        (lambda a, m: m.update(made="[1]"), "expected an object"),
        (lambda a, m: m.update(made='{"prompts": ' + "9" * 5000 + "}"), "not JSON"),
        (lambda a, m: m.update(format="ltx2-mlx-contexts/1"), "older versions"),
        (lambda a, m: m.update(format="another\n::error::"), "not a file of contexts"),
        (lambda a, m: m.update(model_version="2.3"), "made with LTX-2 version 2.3"),
        (lambda a, m: m.pop("model_version"), "version"),
    ],
)
def test_a_damaged_or_foreign_file_is_refused_in_one_line(
    change: Callable[[dict[str, np.ndarray], dict[str, Any]], object], problem: str, kept: Path, checkpoint: Path
) -> None:
    rewritten(kept, lambda arrays, metadata: None)
    assert load_contexts(kept, checkpoint, dtype=mx.float32)
    rewritten(kept, change)
    with pytest.raises(CheckpointError, match=problem) as error:
        load_contexts(kept, checkpoint, dtype=mx.float32)
    assert "\n" not in str(error.value) and str(kept) in str(error.value)


def test_plan_and_generate_refuse_contexts_of_another_run_and_leave_them(
    kept: Path, checkpoint: Path, gemma: Path, checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = kept.read_bytes()
    flags = ["--distilled-checkpoint-path", checkpoint, "--prompt", PROMPT, "--context", kept, "--gemma-root", gemma]
    flags += ["--spatial-upsampler-path", checkpoints / "tiny-2.0-upsampler-x2.safetensors", "--num-frames", "9"]
    flags += ["--height", "64", "--width", "64", "--output-path", tmp_path / "x.mp4"]
    for more in (["--early-layers-only"], ["--dtype", "float32"]):
        for command in ("plan", "generate"):
            assert main([command, *map(str, flags), *more]) == 2
            out = capsys.readouterr()
            assert f"{kept} was made with" in out.out + out.err
    assert kept.read_bytes() == before and not (tmp_path / "x.mp4").exists()
    assert main(["plan", *map(str, flags), "--placeholder", "--dtype", "float32"]) == 0  # which takes none
    assert FORMAT in before[:2000].decode("latin-1")
