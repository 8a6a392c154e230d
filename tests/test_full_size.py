"""Checkpoints of the released sizes: the writer on small shapes, and the released shapes without their values."""

from __future__ import annotations

import hashlib
import json
import runpy
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest

import ltx2_mlx
from ltx2_mlx.loading.checkpoint import Checkpoint, checkpoint_of
from ltx2_mlx.loading.gemma import GemmaFile, GemmaFolder
from ltx2_mlx.loading.header import TensorInfo
from ltx2_mlx.loading.load import COMPONENTS, build
from parity.sides.fixtures import RECIPES

ROOT = Path(__file__).parents[1]
reference = pytest.mark.reference


@cache
def full_size() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(RECIPES / "full_size.py")))


@cache
def tiny_tensors() -> tuple[dict, dict]:
    """``configs/tiny-2.0.json``, and the tensors of two of its components."""
    described = json.loads((RECIPES / "configs" / "tiny-2.0.json").read_text())
    return described, full_size().tensors_of(described["config"], ["transformer", "vocoder"])


def written(path: Path, threads: int) -> Path:
    described, tensors = tiny_tensors()
    with ThreadPoolExecutor(threads) as pool:
        full_size().write_file(path, tensors, full_size().metadata(described), pool)
    return path


@reference
def test_the_writer_makes_the_same_bytes_with_one_thread_and_with_three(tmp_path: Path) -> None:
    one, three = (written(tmp_path / f"{n}.safetensors", n).read_bytes() for n in (1, 3))
    assert one == three
    assert hashlib.sha256(one).hexdigest() == "b262bb9db30af2d4eff925731866dd1728c7d60ae6e85f135a35768d29d9256e"


@reference
def test_what_the_writer_writes_is_loaded_whole_and_has_the_scales_that_were_declared(tmp_path: Path) -> None:
    path, (_, tensors) = written(tmp_path / "tiny.safetensors", 2), tiny_tensors()
    ltx2_mlx.load("transformer", path)
    arrays = mx.load(str(path))
    assert set(arrays) == set(tensors)
    for key, tensor in tensors.items():
        array = np.array(arrays[key].astype(mx.float32), np.float64)
        assert (array != 0).all() and array.shape == tensor.shape, key
        if (scale := full_size().scale_of(tensor)) and array.size > 1000:
            mean, deviation = scale
            assert abs(array.mean() - mean) < 5 * abs(deviation) / array.size**0.5, key
            assert array.std() == pytest.approx(abs(deviation), rel=5 / (2 * array.size) ** 0.5 + 0.002), key


@reference
def test_chunks_differ_and_a_long_tensor_is_made_a_chunk_at_a_time() -> None:
    make, chunk = full_size(), full_size().CHUNK
    tensor = make.Tensor("transformer", "transformer_blocks.1.attn1.to_q.weight", (3 * chunk + 5, 1))
    with ThreadPoolExecutor(1) as pool:
        made = list(make.pieces(tensor, pool))
    assert [piece.size for piece in made] == [chunk, chunk, chunk, 5]
    assert (made[0] == made[1]).mean() < 0.01
    assert (made[0] == made[2]).mean() < 0.01


@reference
@pytest.mark.parametrize("version", ["2.0", "2.3"])
def test_a_full_size_checkpoint_has_exactly_the_keys_and_shapes_that_load_wants(version: str) -> None:
    """Of two blocks and of 48 alike: ltx-core's modules name them, and ours ask for them."""
    make = full_size()
    described = make.description(version, 2)
    tensors = make.tensors_of(described["config"])
    checkpoint = Checkpoint(Path("x"), make.metadata(described), infos(tensors))
    for component in set(COMPONENTS) - {"gemma", "upsampler"}:
        build(component, checkpoint)
    assert checkpoint.version == described["model_version"]
    upsampler = make.description(f"{version}-upsampler-x2", 2)
    tensors = make.tensors_of(upsampler["config"])
    build("upsampler", Checkpoint(Path("x"), make.metadata(upsampler), infos(tensors)))


@reference
def test_the_full_size_files_of_25_have_exactly_the_keys_and_shapes_that_load_wants() -> None:
    """Each file alone, and the text connectors from both of theirs; tensors counted as in the released files."""
    make, headers = full_size(), {}
    for file, components in make.FILES["2.5"].items():
        tensors, said = make.contents(file, 2, components)
        headers[file] = checkpoint_of(Path(file), said, infos(tensors))
        if file != make.TEXT_ENCODER and "upsampler" not in components:
            assert headers[file].version == "2.5.0"
        for component in set(components) - {"embeddings_processor", "gemma"}:
            build(component, headers[file])
    transformer, encoder = headers["2.5-transformer"], headers[make.TEXT_ENCODER]
    both = transformer.tensors | encoder.tensors
    build("embeddings_processor", Checkpoint(Path("x"), transformer.metadata, both))
    block = sum(key.startswith("model.diffusion_model.transformer_blocks.1.") for key in transformer.tensors)
    assert len(transformer.tensors) + 46 * block == 4349
    assert [len(headers[f"2.5-video-vae{kind}"].tensors) for kind in ("", "-conv")] == [84 + 310 + 2, 84 + 84 + 2]
    module, _ = build("gemma", GemmaFile(Path("x"), encoder.metadata, encoder.tensors))
    assert module.embed_tokens.weight.shape == (262144, 3840)


@reference
def test_the_full_size_gemma_has_exactly_the_keys_and_shapes_that_load_wants(tmp_path: Path) -> None:
    make = full_size()
    config = make.gemma_config(2)
    (tmp_path / "config.json").write_text(json.dumps(config))
    module, keys = build("gemma", GemmaFolder(tmp_path, {}, infos(make.gemma_tensors(config))))
    assert len(keys) == 28 and module.embed_tokens.weight.shape == (262208, 3840)


def infos(tensors: dict) -> dict[str, TensorInfo]:
    def info(key: str, tensor: object) -> TensorInfo:
        raw = isinstance(tensor, bytes)
        return (
            TensorInfo("U8", (), len(tensor), Path("x"), key, 0)
            if raw
            else TensorInfo("BF16", tensor.shape, tensor.nbytes, Path("x"), key, 0)
        )

    return {key: info(key, tensor) for key, tensor in tensors.items()}


@reference
def test_the_stream_grows_as_declared() -> None:
    """What the layers of a block add makes the std that was reported after it; text has the share that was reported."""
    make, variance = full_size(), 1.0
    for block in range(48):
        layers = make.added(block)
        if block in (0, 47):
            assert layers["attn2"] / variance**0.5 == pytest.approx(make.TEXT[block], rel=1e-6)
        variance += sum(value**2 for value in layers.values())
        if block in make.STREAM:
            assert variance**0.5 == pytest.approx(make.STREAM[block], rel=1e-6)
    assert 66 < variance**0.5 < 425


@pytest.mark.full_size
def test_two_blocks_of_19b_are_written_in_little_memory_and_loaded(tmp_path: Path) -> None:
    code = f"""
import resource, subprocess, sys
subprocess.run([sys.executable, {str(RECIPES / "make.py")!r}, *sys.argv[1:]], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
    arguments = ["--full-size", "2.0", "--blocks", "2", "--components", "transformer", "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True, cwd=ROOT
    )
    peak = int(done.stdout) * (1 if sys.platform == "darwin" else 1024)
    assert peak < 2e9, f"{peak / 1e9:.2f} GB"
    path = tmp_path / "full-2.0.safetensors"
    assert path.stat().st_size == pytest.approx(2.233e9, rel=0.01)
    module = ltx2_mlx.load("transformer", path)
    assert len(module.transformer_blocks) == 2 and module.transformer_blocks[1].attn1.to_q.weight.dtype == mx.bfloat16
