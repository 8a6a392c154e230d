"""The cost of packed weights: error by block and by kind of layer, a video's PSNR, sizes and memory.

    python benchmarks/quantized.py blocks FILE.safetensors      every block, and every kind of layer
    python benchmarks/quantized.py video FILE.safetensors       frames beside those of float32
    python benchmarks/quantized.py sizes                        19B, 22B and Gemma 12B: files, and what plan says

FILE is a checkpoint, one of ``fixtures/make.py --full-size 2.0 --blocks 2`` for example, or ``tiny``: then a small one
with channels that can be packed is made. All runs on the product alone; the oracle is float32 on the file's weights.
"""

from __future__ import annotations

import argparse
import json
import re
import runpy
import struct
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import ltx2_mlx  # noqa: E402
from ltx2_mlx.diffusion.denoisers import modality_from_latent_state  # noqa: E402
from ltx2_mlx.diffusion.guiders import MultiModalGuiderParams  # noqa: E402
from ltx2_mlx.diffusion.latent_state import AudioLatentTools, VideoLatentTools  # noqa: E402
from ltx2_mlx.diffusion.patchifiers import AudioPatchifier, VideoLatentPatchifier  # noqa: E402
from ltx2_mlx.loading.checkpoint import read_checkpoint  # noqa: E402
from ltx2_mlx.loading.quantized import Quantization, pack  # noqa: E402
from ltx2_mlx.text.embeddings import EmbeddingsProcessorOutput  # noqa: E402
from ltx2_mlx.types import AudioLatentShape, VideoLatentShape  # noqa: E402

VARIANTS = (("bfloat16", None), ("fp8-cast", "fp8-cast"), ("q8", "q8"), ("q4", "q4"))
TEXT, SIGMA, FPS = 256, 0.725, 24.0
# Kinds of layers of a block, which are packed, and of those outside, which are not.
KINDS = {
    "to_q, to_k of self-attention": r"\.(audio_)?attn1\.to_[qk]",
    "to_v, to_out of self-attention": r"\.(audio_)?attn1\.to_(v|out\.0)",
    "text attention": r"\.(audio_)?attn2\.to_(q|k|v|out\.0)",
    "audio-video attention": r"_to_(video|audio)_attn\.to_(q|k|v|out\.0)",
    "first of feed-forward": r"\.(audio_)?ff\.net\.0\.proj",
    "last of feed-forward": r"\.(audio_)?ff\.net\.2",
    "gates (kept)": r"\.to_gate_logits",
    "rows of the timestep (kept)": r"adaln_single",
    "text projection (kept)": r"caption_projection",
    "first projection (kept)": r"patchify_proj",
    "last projection (kept)": r"(^|_)proj_out",
}


# ---- inputs --------------------------------------------------------------------------------------------------------


def small_checkpoint(folder: Path) -> Path:
    """tiny-2.3 with a wider transformer and connectors: 256 channels, 128 for audio, three blocks."""
    make = SimpleNamespace(**runpy.run_path(str(ROOT / "fixtures" / "make.py")))
    source = json.loads((ROOT / "fixtures" / "configs" / "tiny-2.3.json").read_text())
    heads = {"num_attention_heads": 8, "audio_num_attention_heads": 8}
    heads |= {"attention_head_dim": 32, "audio_attention_head_dim": 16}
    wide = heads | {f"connector_{name}": value for name, value in heads.items() if not name.startswith("audio")}
    wide |= {"audio_connector_num_attention_heads": 8, "audio_connector_attention_head_dim": 16}
    source["config"]["transformer"] |= wide | {"cross_attention_dim": 256, "audio_cross_attention_dim": 128}
    tensors = {}
    for part, module in make.modules(source["config"]).items():
        for path, parameter in module.state_dict().items():
            tensors[make.key(part, path)] = make.to_bfloat16(make.values(part, path, tuple(parameter.shape)))
    metadata = {"config": json.dumps(source["config"]), "model_version": source["model_version"]}
    (folder / "small.safetensors").write_bytes(make.serialise(tensors, metadata))
    return folder / "small.safetensors"


def inputs(model: Any, dtype: mx.Dtype, grid: tuple[int, int, int]) -> list[Any]:
    """Both streams of a step, of latents and contexts that are drawn: numbers of bfloat16 in any dtype."""
    config, draw = model.config, np.random.default_rng(1)
    audio = AudioLatentShape(1, 8, round(((grid[0] - 1) * 8 + 1) / FPS * 25), 16)
    tools = (
        VideoLatentTools(VideoLatentPatchifier(patch_size=1), VideoLatentShape(1, 128, *grid), FPS),
        AudioLatentTools(AudioPatchifier(patch_size=1), audio),
    )
    result = []
    for tool, stream in zip(tools, (config.video, config.audio), strict=True):
        state = tool.create_initial_state(mx.bfloat16)
        state = replace(state, latent=mx.array(draw.normal(size=state.latent.shape)).astype(mx.bfloat16))
        width = config.caption_channels if model.get("caption_projection") else stream.cross_attention_dim
        context = mx.array(draw.normal(size=(1, TEXT, width))).astype(mx.bfloat16)
        modality = modality_from_latent_state(state, context, np.float32(SIGMA))
        parts = {name: getattr(modality, name).astype(dtype) for name in ("latent", "positions", "context")}
        result.append(replace(modality, **parts))
    return result


def error(found: mx.array, exact: mx.array) -> float:
    difference = found.astype(mx.float32) - exact.astype(mx.float32)
    return float(mx.linalg.norm(difference) / mx.linalg.norm(exact.astype(mx.float32)))


# ---- blocks --------------------------------------------------------------------------------------------------------


def streams(model: Any, dtype: mx.Dtype, grid: tuple[int, int, int]) -> tuple[Any, Any]:
    video, audio = inputs(model, dtype, grid)
    config = model.config
    return model.prepare(video, audio, config.video), model.prepare(audio, video, config.audio)


def chain(model: Any, dtype: mx.Dtype, grid: tuple[int, int, int], given: list[Any] | None = None) -> list[Any]:
    """Both streams before the first block and after each. given: all that goes into each block, in place of its own."""
    args = streams(model, dtype, grid)
    states = [args]
    for number, block in enumerate(model.transformer_blocks):
        args = block(*(args if given is None else (cast(stream, dtype) for stream in given[number])))
        states.append(args)
        mx.eval([stream.x for stream in args])
    return states


def cast(value: Any, dtype: mx.Dtype) -> Any:
    """A stream, or a part of it, with every array in ``dtype``."""
    if isinstance(value, tuple):
        return tuple(cast(part, dtype) for part in value)
    if is_dataclass(value):
        return replace(value, **{part.name: cast(getattr(value, part.name), dtype) for part in fields(value)})
    return value.astype(dtype) if isinstance(value, mx.array) else value


def blocks(path: Path, grid: tuple[int, int, int]) -> Iterator[str]:
    exact_model = ltx2_mlx.load("transformer", path, mx.float32, paged=True)
    exact = chain(exact_model, mx.float32, grid)
    yield f"Error after each block, {prod(grid)} video tokens, against float32 on the same weights (video / audio):"
    yield ""
    names = [name for name, _ in VARIANTS]
    both = [*names, *(f"{name}, free" for name in names)]
    yield f"| block | {' | '.join(both)} |"
    yield f"|--:|{'--:|' * len(both)}"
    rows: list[list[str]] = [[] for _ in exact[1:]]
    for given in (exact, None):
        for _, policy in VARIANTS:
            model = ltx2_mlx.load("transformer", path, mx.bfloat16, quantization=policy, paged=True)
            for row, found, right in zip(rows, chain(model, mx.bfloat16, grid, given)[1:], exact[1:], strict=True):
                row.append(" / ".join(f"{error(a.x, b.x):.1e}" for a, b in zip(found, right, strict=True)))
            del model
            mx.clear_cache()
    for number, row in enumerate(rows):
        yield f"| {number} | {' | '.join(row)} |"


def kinds(path: Path, grid: tuple[int, int, int]) -> Iterator[str]:
    """The velocity's error when one kind of layer alone has 4 or 8 bits, in float32."""
    model = ltx2_mlx.load("transformer", path, mx.float32)
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, mx_linear())}
    total = sum(x.size for _, x in tree_flatten(model.parameters()))
    video, audio = inputs(model, mx.float32, grid)
    exact = model(video, audio)
    mx.eval(exact)
    yield "The velocity's error when one kind of layer alone is packed, in float32 (video / audio):"
    yield ""
    yield "| kind | share of the parameters | 8 bits | 4 bits |"
    yield "|---|--:|--:|--:|"
    for kind, pattern in KINDS.items():
        chosen = {name: layer.weight for name, layer in layers.items() if re.search(pattern, name)}
        chosen = {name: weight for name, weight in chosen.items() if weight.shape[1] % 64 == 0}
        if not chosen:
            continue
        errors = []
        for bits in (8, 4):
            how = Quantization(bits)
            for name, weight in chosen.items():
                parts = pack(weight.astype(mx.bfloat16), how)
                layers[name].weight = mx.dequantize(*parts, group_size=64, bits=bits).astype(mx.float32)
            found = model(video, audio)
            mx.eval(found)
            errors.append(" / ".join(f"{error(a, b):.1e}" for a, b in zip(found, exact, strict=True)))
        for name, weight in chosen.items():
            layers[name].weight = weight
        share = sum(weight.size for weight in chosen.values()) / total
        yield f"| {kind} | {share:.1%} | {' | '.join(errors)} |"


def mx_linear() -> type:
    import mlx.nn as nn

    return nn.Linear


# ---- a video -------------------------------------------------------------------------------------------------------


def video(path: Path, steps: int, size: tuple[int, int, int]) -> Iterator[str]:
    yield f"Frames of {size[0]}x{size[1]}x{size[2]} after {steps} steps, PSNR beside float32 of the same seed:"
    yield ""
    yield "| weights | PSNR of the frames, dB | PSNR of the audio, dB |"
    yield "|---|--:|--:|"
    exact = made(path, steps, size, mx.float32, None)
    for name, policy in VARIANTS:
        found = made(path, steps, size, mx.bfloat16, policy)
        yield f"| {name} | {' | '.join(f'{psnr(a, b):.1f}' for a, b in zip(found, exact, strict=True))} |"


def made(
    path: Path, steps: int, size: tuple[int, int, int], dtype: mx.Dtype, policy: str | None
) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(2)
    config = read_checkpoint(path).config["transformer"]
    first = config["caption_channels"]
    widths = [
        config[f"{stream}cross_attention_dim"] if config.get("caption_proj_before_connector") else first
        for stream in ("", "audio_")
    ]
    parts = [mx.array(draw.normal(size=(1, 1024, width))).astype(dtype) for width in widths]
    context = EmbeddingsProcessorOutput(*parts, mx.ones((1, 1024), mx.int32))
    settings = ltx2_mlx.Settings(dtype=dtype, quantization=policy, contexts={"x": context, "": context})
    pipeline = ltx2_mlx.TI2VidOneStagePipeline(checkpoint_path=path, gemma_root=None, settings=settings)
    plain = MultiModalGuiderParams(cfg_scale=1.0, stg_scale=0.0, modality_scale=1.0, stg_blocks=[])
    frames, audio = pipeline(
        prompt="x", negative_prompt="", seed=7, height=size[0], width=size[1], num_frames=size[2], frame_rate=24.0,
        num_inference_steps=steps, video_guider_params=plain, audio_guider_params=plain,
    )  # fmt: skip
    pictures = np.concatenate([np.array(chunk) for chunk in frames]).astype(np.float64) / 255
    return pictures, np.array(audio.waveform.astype(mx.float32)).astype(np.float64)


def psnr(found: np.ndarray, exact: np.ndarray) -> float:
    return float(10 * np.log10(np.ptp(exact) ** 2 / np.mean((found - exact) ** 2)))


# ---- sizes ---------------------------------------------------------------------------------------------------------


def sizes(folder: Path) -> Iterator[str]:
    """Files of the released sizes that are all header: the rest is a hole, which nothing reads."""
    full = SimpleNamespace(**runpy.run_path(str(ROOT / "fixtures" / "full_size.py")))
    gemma = folder / "gemma"
    gemma.mkdir()
    config = full.gemma_config(48)
    hollow(gemma / "model.safetensors", full.gemma_tensors(config), {"format": "pt"})
    for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model"):
        (gemma / name).write_bytes((ROOT / "fixtures" / "checkpoints" / "tiny-gemma" / name).read_bytes())
    (gemma / "config.json").write_text(json.dumps(config))
    yield "| file | bfloat16 | 8 bits | 4 bits | layers packed |"
    yield "|---|--:|--:|--:|--:|"
    for version in ("2.0", "2.3"):
        described = full.description(version, 48)
        hollow(folder / f"{version}.safetensors", full.tensors_of(described["config"]), full.metadata(described))
        yield size_row(f"LTX-2 {'19B' if version == '2.0' else '22B'}", folder / f"{version}.safetensors")
    yield size_row("Gemma 3 12B", gemma)
    yield ""
    yield "What `plan` expects for 121 frames of 512x768, one stage, beside Gemma in the same bits, in GB:"
    yield ""
    yield "| model | bits | prompts | denoising | with --low-memory: prompts | denoising |"
    yield "|---|--:|--:|--:|--:|--:|"
    for version in ("2.0", "2.3"):
        for bits in (16, 8, 4):
            yield plan_row(folder, version, bits, gemma)


def hollow(path: Path, tensors: dict[str, Any], metadata: dict[str, str], dtypes: dict[str, str] | None = None) -> None:
    """A file whose header states these tensors, which are not written."""
    header: dict[str, Any] = {"__metadata__": metadata}
    offset = 0
    for key, tensor in tensors.items():
        place = [offset, offset + tensor.nbytes]
        dtype = (dtypes or {}).get(key, "BF16")
        header[key] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": place}
        offset += tensor.nbytes
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + offset)


def packed_file(path: Path, bits: int) -> Any:
    from ltx2_mlx.loading.convert import Contents
    from ltx2_mlx.loading.gemma import read_gemma

    checkpoint = read_gemma(path) if path.is_dir() else read_checkpoint(path)
    return Contents(checkpoint, "gemma" if path.is_dir() else "transformer", Quantization(bits))


def size_row(name: str, path: Path) -> str:
    files = [packed_file(path, bits) for bits in (8, 4)]
    whole = path / "model.safetensors" if path.is_dir() else path
    gigabytes = [whole.stat().st_size, *(file.nbytes for file in files)]
    return f"| {name} | {' | '.join(f'{size / 1e9:.1f} GB' for size in gigabytes)} | {len(files[0].choice.layers):,} |"


def plan_row(folder: Path, version: str, bits: int, gemma: Path) -> str:
    from ltx2_mlx.cli.plan import _text_stage, plan
    from ltx2_mlx.cli.recipes import parse
    from ltx2_mlx.types import VideoPixelShape

    checkpoint, root = folder / f"{version}.safetensors", gemma
    if bits != 16:
        file = packed_file(checkpoint, bits)
        checkpoint, root = folder / f"{version}-{bits}.safetensors", folder / f"gemma-{bits}"
        entries = {entry.key: entry for entry in file.entries}
        metadata = read_checkpoint(folder / f"{version}.safetensors").metadata
        hollow(checkpoint, entries, metadata, {key: entry.dtype for key, entry in entries.items()})
        if not root.exists():
            root.mkdir()
            entries = {entry.key: entry for entry in packed_file(gemma, bits).entries}
            hollow(root / "model.safetensors", entries, {}, {key: entry.dtype for key, entry in entries.items()})
            for small in ("tokenizer.json", "tokenizer_config.json", "config.json"):
                (root / small).write_bytes((gemma / small).read_bytes())
    argv = ["--pipeline", "ti2vid_one_stage", "--checkpoint-path", str(checkpoint), "--gemma-root", str(root)]
    argv += ["--height", "512", "--width", "768", "--num-frames", "121", "--prompt", "x"]
    argv += ["--output-path", str(folder / "x.mp4")]
    cells = []
    for more in ([], ["--low-memory"]):
        with mock.patch("mlx.core.default_device", lambda: mx.Device(mx.gpu)):  # as on a Mac; nothing is computed
            planned = plan(parse("plan", [*argv, *more]))
        planned.encodes = 1  # the tokenizer is that of the tiny Gemma, which ``plan`` notices
        stages = [*_text_stage(planned, read_checkpoint(checkpoint), VideoPixelShape(1, 121, 512, 768, 24))]
        stages += [stage for stage in planned.stages if stage.name == "denoising"]
        cells += [f"{stage.memory / 1e9:.1f}" for stage in stages]
    return f"| {version} | {bits} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("blocks", "video", "sizes"))
    parser.add_argument("file", nargs="?", default="tiny")
    parser.add_argument("--grid", type=int, nargs=3, default=(2, 6, 8), help="latent frames, rows and columns")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--size", type=int, nargs=3, default=(128, 192, 17), help="height, width, frames")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if args.what == "sizes":
            lines = sizes(folder)
        else:
            path = small_checkpoint(folder) if args.file == "tiny" else Path(args.file)
            if args.what == "video":
                lines = video(path, args.steps, tuple(args.size))
            else:
                lines = (line for part in (blocks, kinds) for line in [*part(path, tuple(args.grid)), ""])
        for line in lines:
            print(line, flush=True)


if __name__ == "__main__":
    main()
