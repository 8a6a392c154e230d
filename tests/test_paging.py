"""Paged weights: the same numbers as whole ones, in the memory of two blocks."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from test_plan_agrees import Denoiser, stand_ins  # noqa: F401 (a fixture)

import ltx2_mlx
from ltx2_mlx import CheckpointError, LoraPathStrength, WeightsError
from ltx2_mlx.cli import generate
from ltx2_mlx.cli.main import main
from ltx2_mlx.cli.memory import weights
from ltx2_mlx.cli.plan import plan
from ltx2_mlx.cli.recipes import RECIPES, parse
from ltx2_mlx.config import TransformerConfig
from ltx2_mlx.loading.checkpoint import read_checkpoint
from ltx2_mlx.loading.load import COMPONENTS
from ltx2_mlx.pipelines.ledger import ModelLedger
from ltx2_mlx.text.embeddings import EmbeddingsProcessorOutput
from ltx2_mlx.transformer import LTXModel
from ltx2_mlx.types import Modality

PREFIX = "model.diffusion_model."
pytestmark = pytest.mark.usefixtures("built_once")


def file_of(component: str, checkpoints: Path) -> Path:
    names = {"gemma": "tiny-gemma", "upsampler": "tiny-2.3-upsampler-x2.safetensors"}
    return checkpoints / names.get(component, "tiny-2.3.safetensors")


def parameters(module: nn.Module) -> dict[str, mx.array]:
    return dict(tree_flatten(module.parameters()))


def differing(whole: nn.Module, paged: nn.Module) -> list[str]:
    """The parameters of pages that, when their page is filled, are not those of a whole load."""
    expected, result = parameters(whole), []
    for page in paged.pages:
        with paged.pages.filled(page.path):
            found = parameters(paged)
        mine = [name for name in found if name.startswith(f"{page.path}.")]
        result += [n for n in mine if found[n].dtype != expected[n].dtype or not mx.array_equal(found[n], expected[n])]
        result += sorted({*page.parameters} - {*mine})
    return result


# ---- the weights --------------------------------------------------------------------------------------------------


def test_a_filled_page_holds_what_a_whole_load_holds(checkpoints: Path) -> None:
    for component in COMPONENTS:
        path = file_of(component, checkpoints)
        whole, paged = (ltx2_mlx.load(component, path, paged=way) for way in (False, True))
        assert [name for name, _ in whole.named_modules()] == [name for name, _ in paged.named_modules()]
        assert {n: (x.shape, x.dtype) for n, x in parameters(whole).items()} == {
            n: (x.shape, x.dtype) for n, x in parameters(paged).items()
        }
        assert len(paged.pages) or component in ("upsampler", "audio_encoder", "audio_decoder")
        assert differing(whole, paged) == []
        for name in paged.pages.resident:
            assert mx.array_equal(parameters(paged)[name], parameters(whole)[name])


@pytest.mark.parametrize(("quantization", "dtype"), [(None, mx.bfloat16), ("fp8-cast", mx.float32)])
def test_a_page_has_its_dtype_and_its_loras(quantization: str | None, dtype: mx.Dtype, checkpoints: Path) -> None:
    loras = [LoraPathStrength(checkpoints / f"tiny-2.0{name}.safetensors", 0.7) for name in ("-lora", "-ic-lora")]
    path = checkpoints / "tiny-2.0.safetensors"
    whole, paged = (ltx2_mlx.load("transformer", path, dtype, loras, quantization, paged=way) for way in (False, True))
    assert len(paged.pages) == 3 and differing(whole, paged) == []
    assert differing(whole, paged) == []  # the second time, from pages that are known to be finite
    plain = ltx2_mlx.load("transformer", path, dtype, quantization=quantization)
    assert len(differing(plain, paged)) > 50


def test_a_page_that_is_not_filled_gives_nan(checkpoints: Path) -> None:
    paged = ltx2_mlx.load("transformer", checkpoints / "tiny-2.0.safetensors", paged=True)
    layer = paged.transformer_blocks[1].attn1.to_q
    with paged.pages.filled("transformer_blocks.1"):
        assert mx.isfinite(layer.weight).all().item()
        with paged.pages.filled("transformer_blocks.1"):
            pass
        assert mx.isfinite(layer.weight).all().item()  # within another use
    assert mx.isnan(layer.weight).all().item()


def rewritten(source: Path, target: Path, changes: dict[str, mx.array | None]) -> Path:
    """A copy with tensors of the transformer replaced, added or (None) left out."""
    header = read_checkpoint(source)
    tensors = {**header.arrays(), **{PREFIX + name: value for name, value in changes.items()}}
    mx.save_safetensors(str(target), {n: x for n, x in tensors.items() if x is not None}, header.metadata)
    return target


LAYER = "transformer_blocks.2.attn1.to_q"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({f"{LAYER}.weight": None}, f"missing .*{LAYER}.weight"),
        ({f"{LAYER}.weight": mx.zeros((3, 40))}, f"misshaped .*{LAYER}.weight"),
        ({f"{LAYER}.other": mx.zeros(3)}, f"left over .*{LAYER}.other"),
        ({"transformer_blocks.3.scale_shift_table": mx.zeros((6, 40))}, "left over .*transformer_blocks.3"),
    ],
)
def test_keys_are_checked_before_a_page_is_read(
    changes: dict[str, mx.array | None], message: str, checkpoints: Path, tmp_path: Path
) -> None:
    path = rewritten(checkpoints / "tiny-2.0.safetensors", tmp_path / "x.safetensors", changes)
    with pytest.raises(WeightsError, match=message):
        ltx2_mlx.load("transformer", path, paged=True)


# ---- runs ---------------------------------------------------------------------------------------------------------

TINY = ["--height", "64", "--width", "64", "--num-frames", "9"]


def flags_of(pipeline: str, checkpoints: Path, *more: str) -> list[str]:
    tiny = checkpoints / "tiny-2.0"
    distilled = RECIPES[pipeline].distilled
    flags = ["--pipeline", pipeline, "--gemma-root", str(checkpoints / "tiny-gemma"), "--prompt", "a fox"]
    flags += ["--distilled-checkpoint-path" if distilled else "--checkpoint-path", f"{tiny}.safetensors"]
    flags += ["--spatial-upsampler-path", f"{tiny}-upsampler-x2.safetensors"] if RECIPES[pipeline].two_stages else []
    guided = {"ti2vid_one_stage": 2, "ti2vid_two_stages": 2, "a2vid_two_stage": 1}
    for flag in ("--video-stg-blocks", "--audio-stg-blocks")[: guided.get(pipeline, 0)]:
        flags += [flag, "1"]
    return [*flags, *TINY, "--output-path", "x", *more]


@pytest.fixture
def short_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contexts of 7 tokens for every prompt: encoding takes most of a tiny run."""

    class Texts(dict[str, EmbeddingsProcessorOutput]):
        def __contains__(self, prompt: object) -> bool:
            return True

        def __getitem__(self, prompt: str) -> EmbeddingsProcessorOutput:
            video, audio = mx.random.normal((2, 1, 7, 44), mx.bfloat16, key=mx.random.key(len(prompt)))
            return EmbeddingsProcessorOutput(video, audio, mx.ones((1, 7)))

    monkeypatch.setattr(generate, "contexts", lambda request: Texts())


def frames_of(argv: list[str]) -> np.ndarray:
    planned = plan(parse("generate", argv))
    assert not planned.problems
    frames, _ = generate.run(planned.request, replace(generate.settings(planned.request), audio=False))
    return np.concatenate(list(frames))


@pytest.mark.parametrize(
    ("pipeline", "flags"),
    [
        ("distilled", ["--lora", "LORA", "0.8", "--cross-attn-scale", "0.7"]),
        ("ti2vid_one_stage", ["--lora", "LORA", "--quantization", "fp8-cast", "--num-inference-steps", "2"]),
    ],
)
def test_low_memory_gives_the_same_frames(
    pipeline: str, flags: list[str], checkpoints: Path, short_texts: None
) -> None:
    flags = [str(checkpoints / "tiny-2.0-lora.safetensors") if flag == "LORA" else flag for flag in flags]
    argv = flags_of(pipeline, checkpoints, *flags)
    np.testing.assert_array_equal(frames_of([*argv, "--low-memory"]), frames_of(argv))


def test_low_memory_gives_the_same_contexts(checkpoints: Path, short_prompts: None) -> None:
    files = checkpoints / "tiny-2.0.safetensors", checkpoints / "tiny-gemma"
    whole, paged = (ltx2_mlx.encode_prompts(["a fox"], *files, low_memory=way)[0] for way in (False, True))
    assert mx.array_equal(whole.video_encoding, paged.video_encoding)
    assert mx.array_equal(whole.audio_encoding, paged.audio_encoding)


def test_a_block_that_holds_nan_is_refused_before_a_frame_is_written(
    checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], short_texts: None
) -> None:
    path = rewritten(
        checkpoints / "tiny-2.0.safetensors",
        tmp_path / "x.safetensors",
        {f"{LAYER}.bias": mx.full((40,), float("nan"), mx.bfloat16)},
    )
    argv = flags_of("distilled", checkpoints, "--distilled-checkpoint-path", str(path), "--low-memory")
    assert main(["generate", *argv, "--output-path", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("ltx2-mlx: ") and f"{path}: {PREFIX}{LAYER}.bias holds NaN" in said
    assert not (tmp_path / "out").exists()


def test_a_file_that_changes_during_a_run_ends_it_with_its_name(checkpoints: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    shutil.copyfile(checkpoints / "tiny-2.0.safetensors", path)
    paged = ltx2_mlx.load("transformer", path, paged=True)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(CheckpointError, match=r"x.safetensors: it has changed since it was opened"):
        paged.pages.fill("transformer_blocks.1")
    path.unlink()
    with pytest.raises(CheckpointError, match=r"x.safetensors: cannot be read \(No such file"):
        paged.pages.fill("transformer_blocks.1")


# ---- what plan says -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pipeline", "flags"),
    [
        ("distilled", []),
        ("ti2vid_one_stage", ["--video-skip-step", "1", "--audio-skip-step", "2"]),
        ("ti2vid_one_stage", ["--video-skip-step", "1", "--video-stg-guidance-scale", "0"]),
        ("ti2vid_two_stages", ["--distilled-lora", "LORA"]),
        ("ti2vid_two_stages_hq", ["--distilled-lora", "LORA", "--video-skip-step", "2", "--audio-skip-step", "1"]),
        ("a2vid_two_stage", ["--distilled-lora", "LORA", "--audio-path", "AUDIO", "--video-skip-step", "1"]),
    ],
)
def test_plan_counts_the_passes_that_run(
    pipeline: str,
    flags: list[str],
    checkpoints: Path,
    stand_ins: None,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = 0

    class Counting(Denoiser):
        def __call__(self, *args: object) -> tuple[mx.array, mx.array]:
            nonlocal calls
            calls += 1
            return super().__call__(*args)

    monkeypatch.setattr(ModelLedger, "transformer", lambda self: Counting())
    files = {"LORA": checkpoints / "tiny-2.0-distilled-lora.safetensors", "AUDIO": checkpoints / "media/audio.wav"}
    flags = [str(files.get(flag, flag)) for flag in flags]
    flags += [] if RECIPES[pipeline].distilled else ["--num-inference-steps", "4"]
    argv = flags_of(pipeline, checkpoints, *flags)
    frames_of(argv)
    request = plan(parse("generate", argv)).request
    recipe = RECIPES[pipeline]
    assert sum(stage.runs for stage in recipe.denoising(request, recipe.shape(request))) == calls > 0
    low = plan(parse("generate", [*argv, "--low-memory"]))
    read = {stage.name: stage.reading for stage in low.stages if "stage" in stage.name or stage.name == "denoising"}
    loras = len(request.distilled_lora) * (checkpoints / "tiny-2.0-distilled-lora.safetensors").stat().st_size
    header = read_checkpoint(checkpoints / "tiny-2.0.safetensors")
    blocks = sum(x.nbytes for key, x in header.tensors.items() if key.startswith(f"{PREFIX}transformer_blocks."))
    for stage in recipe.denoising(request, recipe.shape(request)):
        fused = loras if recipe.second_order or stage.name == "stage 2" else 0
        assert read[stage.name] == stage.runs * (blocks + fused)


# ---- memory -------------------------------------------------------------------------------------------------------

BLOCKS = 8


@pytest.fixture(scope="module")
def wide(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformer of 8 blocks of 5 MB, beside which the rest is small."""
    metadata = read_checkpoint(checkpoints / "tiny-2.0.safetensors").metadata
    config = json.loads(metadata["config"])
    config["transformer"] |= {"num_layers": BLOCKS, "attention_head_dim": 64, "audio_attention_head_dim": 32}
    config["transformer"] |= {"cross_attention_dim": 320, "audio_cross_attention_dim": 160}
    model = LTXModel(TransformerConfig.from_metadata(config))
    tensors = {PREFIX + name: x.astype(mx.bfloat16) for name, x in parameters(model).items()}
    path = tmp_path_factory.mktemp("wide") / "wide.safetensors"
    mx.save_safetensors(str(path), tensors, metadata | {"config": json.dumps(config)})
    return path


def inputs(config: TransformerConfig) -> Iterator[Modality]:
    for i, (stream, axes, tokens) in enumerate(((config.video, 3, 6), (config.audio, 1, 4))):
        key = mx.random.key(i)
        yield Modality(
            latent=mx.random.normal((1, tokens, stream.in_channels), mx.bfloat16, key=key),
            sigma=mx.array([0.7]),
            timesteps=mx.full((1, 1, 1), 0.7),
            positions=mx.broadcast_to(mx.arange(tokens, dtype=mx.float32)[None, None, :, None], (1, axes, tokens, 2)),
            context=mx.random.normal((1, 5, config.caption_channels), mx.bfloat16, key=key),
        )


def digest(model: nn.Module) -> str:
    outputs = model(*inputs(model.config))
    return hashlib.sha256(b"".join(np.array(x.astype(mx.float32)).tobytes() for x in outputs)).hexdigest()


def used(model: nn.Module) -> tuple[int, int]:
    """Bytes of MLX's arrays before a pass, and how many more there are at its peak."""
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(model(*inputs(model.config)))
    return before, mx.get_peak_memory() - before


def test_two_blocks_are_in_memory_and_none_after(wide: Path) -> None:
    gc.collect()
    start = mx.get_active_memory()
    model = ltx2_mlx.load("transformer", wide, mx.bfloat16, paged=True)
    block = sum(x.nbytes for x in parameters(model.transformer_blocks[0]).values())
    resident = sum(parameters(model)[name].nbytes for name in model.pages.resident)
    assert block > 4e6
    assert mx.get_active_memory() - start < resident + block // 10
    before, more = used(model)
    assert 1.9 * block < more < 2.2 * block
    assert mx.get_active_memory() - before < block // 10
    model.pages.prefetch = False
    assert used(model)[1] < 1.2 * block
    paged = digest(model)
    gc.disable()
    try:
        del model
        assert mx.get_active_memory() - start < block // 10  # without waiting for Python's garbage collection
    finally:
        gc.enable()
    assert digest(ltx2_mlx.load("transformer", wide, mx.bfloat16)) == paged
    request = parse("plan", flags_of("distilled", wide.parent))
    said = weights(read_checkpoint(wide), "transformer", replace(request, low_memory=True))
    assert (said.held, said.read) == (resident + 2 * block, BLOCKS * block)


def test_a_whole_load_in_another_dtype_holds_no_second_copy(wide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ltx2_mlx.loading.weights.READ_AT_ONCE", 1 << 20)
    gc.collect()
    mx.clear_cache()
    mx.reset_peak_memory()
    start = mx.get_active_memory()
    model = ltx2_mlx.load("transformer", wide, mx.float32)
    held = sum(x.nbytes for x in parameters(model).values())
    assert mx.get_peak_memory() - start < 1.2 * held


def test_a_block_that_fails_gives_its_memory_back(wide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ltx2_mlx.load("transformer", wide, mx.bfloat16, paged=True)
    block = sum(x.nbytes for x in parameters(model.transformer_blocks[0]).values())
    whole = digest(model)
    before = mx.get_active_memory()
    cls = type(model.transformer_blocks[3].ff)

    def stopped(self: object, *args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(cls, "__call__", stopped)
        model(*inputs(model.config))
    gc.collect()
    assert mx.get_active_memory() - before < block // 10
    assert digest(model) == whole
