"""LTX-2.5: split files with and without prefixes, versions, and the mark of tokens that hold a single picture."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from ltx2_mlx.cli.info import info
from ltx2_mlx.diffusion.conditioning import (
    VideoConditionByKeyframeIndex,
    VideoConditionByLatentIndex,
    VideoConditionByReferenceLatent,
)
from ltx2_mlx.diffusion.denoisers import modality_from_latent_state
from ltx2_mlx.errors import CheckpointError, ConfigError, InputError
from ltx2_mlx.loading.checkpoint import (
    Checkpoint,
    CheckpointFiles,
    check_gemma_version,
    checkpoint_of,
    read_checkpoint,
    release_of,
)
from ltx2_mlx.loading.header import read_header
from ltx2_mlx.loading.load import build
from ltx2_mlx.pipelines.ledger import ModelLedger
from ltx2_mlx.pipelines.stages import video_tools
from ltx2_mlx.transformer import LTXModel, marked
from ltx2_mlx.types import VideoPixelShape

FILES = {
    "transformer_path": "tiny-2.5-transformer",
    "video_vae_path": "tiny-2.5-video-vae-conv",
    "audio_vae_path": "tiny-2.5-audio-vae",
}
COMPONENTS = ("transformer", "video_encoder", "video_decoder", "audio_encoder", "audio_decoder", "vocoder")


@pytest.fixture(scope="module")
def split(checkpoints: Path) -> CheckpointFiles:
    return CheckpointFiles(**{role: checkpoints / f"{name}.safetensors" for role, name in FILES.items()})


# ---- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("component", COMPONENTS)
def test_each_component_of_the_split_files_is_whole(split: CheckpointFiles, component: str) -> None:
    checkpoint = read_checkpoint(split)
    assert checkpoint.version == "2.5.0" and checkpoint.gemma_needed == "gemma4-12b-ltx-v1"
    module, keys = build(component, checkpoint)
    assert not checkpoint.components().get("") and len(keys) > 15
    if component == "transformer":
        assert isinstance(module, LTXModel) and module.audio_video_timing == "upstream"
        assert "bias" not in module.transformer_blocks[0].ff.net[2]
        assert "bias" in module.transformer_blocks[0].audio_ff.net[2]


def renamed(path: Path, first: str, by: str) -> Checkpoint:
    """The header of a file, whose keys begin otherwise."""
    metadata, tensors = read_header(path)
    return checkpoint_of(path, metadata, {by + key.removeprefix(first): info for key, info in tensors.items()})


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "diffusion_model.", ""])
def test_a_transformer_loads_with_and_without_its_prefix(checkpoints: Path, prefix: str) -> None:
    path = checkpoints / "tiny-2.5-transformer.safetensors"
    other = renamed(path, "model.diffusion_model.", prefix)
    assert build("transformer", other)[1].keys() == build("transformer", read_checkpoint(path))[1].keys()
    assert len(other.components()["embeddings_processor"]) == len(
        read_checkpoint(path).components()["embeddings_processor"]
    )


@pytest.mark.parametrize("prefix", ["vae.", ""])
def test_a_video_vae_loads_with_and_without_its_prefix(checkpoints: Path, prefix: str) -> None:
    checkpoint = renamed(checkpoints / "tiny-2.5-video-vae-conv.safetensors", "", prefix)
    for component in ("video_encoder", "video_decoder"):
        assert "per_channel_statistics.mean-of-means" in build(component, checkpoint)[1]


@pytest.mark.parametrize(
    ("version", "release"),
    [("2.5.0", (2, 5)), ("2.5", (2, 5)), ("2.5-1", (2, 5)), ("2.10.3", (2, 10)), ("2", ()), ("new", ()), ("2.5x", ())],
)
def test_versions_are_compared_as_numbers(version: str, release: tuple[int, ...]) -> None:
    assert release_of(version) == release
    known = Checkpoint(Path("a"), {"model_version": version}, {})
    if release == (2, 5):
        assert known.version == version
    else:
        with pytest.raises(ConfigError, match=r"model_version is .*expected 2.0, 2.3 or 2.5"):
            _ = known.version


@pytest.mark.parametrize(
    ("version", "needed", "found", "refusal"),
    [
        ("2.5.0", "gemma4-12b-ltx-v1", "gemma4-12b-ltx-v1", ""),
        ("2.5.0", "gemma4-12b-ltx-v1", "gemma4-12b-ltx-v2", "needs the text encoder gemma4-12b-ltx-v1, and .* is .*v2"),
        ("2.5.0", "gemma4-12b-ltx-v1", None, "needs the text encoder gemma4-12b-ltx-v1, and .* states no version"),
        ("2.5.0", None, "gemma4-12b-ltx-v1", "does not say which text encoder it needs"),
        ("2.5.0", None, None, ""),
        ("2.3.0", None, "gemma4-12b-ltx-v1", "needs Gemma 3, and .* is gemma4"),
        ("2.3.0", None, None, ""),
    ],
)
def test_the_text_encoder_is_the_one_that_the_checkpoint_was_trained_with(
    version: str, needed: str | None, found: str | None, refusal: str
) -> None:
    def metadata(key: str, value: str | None) -> dict[str, str]:
        return {} if value is None else {key: json.dumps({"gemma_version": value})}

    checkpoint = Checkpoint(Path("a"), {"model_version": version} | metadata("gemma_source_checkpoint", needed), {})
    gemma = Checkpoint(Path("b"), metadata("gemma_config", found), {})
    if refusal:
        with pytest.raises(CheckpointError, match=refusal):
            check_gemma_version(checkpoint, gemma)
    else:
        check_gemma_version(checkpoint, gemma)


def test_files_of_two_versions_are_refused(checkpoints: Path, split: CheckpointFiles) -> None:
    with pytest.raises(CheckpointError, match=r"of version 2\.5, .* of version 2\.3"):
        read_checkpoint(replace(split, audio_vae_path=checkpoints / "tiny-2.3.safetensors"))


def test_an_upsampler_in_the_place_of_a_part_is_named(checkpoints: Path, split: CheckpointFiles) -> None:
    upsampler = checkpoints / "tiny-2.3-upsampler-x2.safetensors"
    with pytest.raises(CheckpointError, match="it holds a latent upsampler, and --video-vae-path needs the video VAE"):
        read_checkpoint(replace(split, video_vae_path=upsampler))


def test_info_says_what_each_of_the_split_files_holds(checkpoints: Path) -> None:
    said = info(checkpoints / "tiny-2.5-transformer.safetensors")
    assert (
        "version   2.5.0" in said and "in part: what begins with text_embedding_projection. is in another file" in said
    )
    (line,) = (line for line in said.splitlines() if line.startswith("  transformer "))
    assert line.endswith("whole: every key used once, every shape right")
    said = info(checkpoints / "tiny-2.5-video-vae-conv.safetensors")
    assert said.count("whole: every key used once") == 2


# ---- the mark of single pictures ------------------------------------------------------------------------------------


def test_the_first_latent_frame_is_marked_whatever_it_is_made_from_and_nothing_else_is(
    checkpoints: Path, split: CheckpointFiles
) -> None:
    assert ModelLedger(split).marks_keyframes
    assert not ModelLedger(checkpoints / "tiny-2.3.safetensors").marks_keyframes
    tools = video_tools(VideoPixelShape(1, 17, 64, 96, 25.0), keyframes=True)
    state = tools.create_initial_state(mx.float32)
    picture = mx.ones((1, 128, 1, 2, 3))
    for item in (
        VideoConditionByLatentIndex(picture, 1.0, 0),
        VideoConditionByKeyframeIndex(picture, 0, 1.0),
        VideoConditionByKeyframeIndex(picture, 8, 0.5),
        VideoConditionByReferenceLatent(mx.ones((1, 128, 3, 2, 3))),
    ):
        state = item.apply_to(state, tools)
    modality = modality_from_latent_state(state, mx.zeros((1, 4, 8)), 0.7)
    assert modality.keyframes_mask is not None
    marks = np.array(modality.keyframes_mask)
    assert marks.shape == (1, 18 + 6 + 6 + 18, 1) and marks[0, :6].all() and not marks[0, 6:].any()
    cleared = tools.clear_conditioning(state)
    assert cleared.keyframes_mask is not None and cleared.keyframes_mask.shape == (1, 18, 1)


def test_a_checkpoint_without_a_marker_is_told_of_none() -> None:
    tools = video_tools(VideoPixelShape(1, 17, 64, 96, 25.0))
    state = tools.create_initial_state(mx.float32)
    state = VideoConditionByKeyframeIndex(mx.ones((1, 128, 1, 2, 3)), 8, 0.5).apply_to(state, tools)
    assert state.keyframes_mask is None


def test_a_mask_of_other_tokens_is_refused() -> None:
    with pytest.raises(InputError, match=r"the keyframes' mask is \(1, 4, 1\), expected \(1, 5, 1\)"):
        marked(mx.zeros((1, 5, 8)), mx.zeros((1, 4, 1)), mx.zeros((1, 8)))
