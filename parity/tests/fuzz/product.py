"""The product's files: checkpoints, LoRAs, Gemma folders, contexts; pictures, clips and audio."""

from __future__ import annotations

import functools
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from parity.declare.inputs import FIXTURES, GEMMA
from parity.run.environment import ROOT

from . import mutate
from .reading import Format, content

CHECKPOINTS = ("tiny-2.0.safetensors", "tiny-2.3.safetensors", "tiny-2.0-upsampler-x2.safetensors")


def _tensors(*names: str, inner: str = "config") -> Callable[[Path, random.Random], Path]:
    def make(folder: Path, rng: random.Random) -> Path:
        path = folder / "changed.safetensors"
        path.write_bytes(mutate.safetensors(content(FIXTURES / rng.choice(names)), rng, inner))
        return path

    return make


def _checkpoint(path: Path) -> None:
    from ltx2_mlx.cli.info import info
    from ltx2_mlx.loading.checkpoint import read_checkpoint
    from ltx2_mlx.loading.load import build

    info(str(path))
    checkpoint = read_checkpoint(path)
    for component in ("transformer", "video_decoder", "vocoder", "audio_decoder", "upsampler", "embeddings_processor"):
        if checkpoint.holds(component):
            build(component, checkpoint)


def _lora(path: Path) -> None:
    from ltx2_mlx.loading.lora import LoraPathStrength, lora_metadata, read_lora

    lora_metadata(path)
    read_lora(LoraPathStrength(str(path), 1.0))


def _gemma_file(name: str) -> Callable[[Path, random.Random], Path]:
    def make(folder: Path, rng: random.Random) -> Path:
        gemma = folder / "gemma"
        gemma.mkdir(exist_ok=True)
        for file in GEMMA.iterdir():
            (gemma / file.name).unlink(missing_ok=True)
            if file.name != name:
                (gemma / file.name).symlink_to(file)
        (gemma / name).write_bytes(mutate.text(json.loads(content(GEMMA / name)), rng))
        return gemma

    return make


def _gemma(path: Path) -> None:
    from ltx2_mlx.loading.gemma import check_gemma
    from ltx2_mlx.loading.load import build

    build("gemma", check_gemma(path))


def _tokenizer(path: Path) -> None:
    from ltx2_mlx.text.tokenizer import LTXVGemmaTokenizer

    LTXVGemmaTokenizer(path, 64).encode("a fox in the snow")


@functools.cache
def whole_contexts() -> bytes:
    """A file of contexts."""
    import mlx.core as mx

    from ltx2_mlx.config import EmbeddingsProcessorConfig
    from ltx2_mlx.loading.checkpoint import read_checkpoint
    from ltx2_mlx.pipelines.contexts import save_contexts
    from ltx2_mlx.text.embeddings import EmbeddingsProcessorOutput
    from ltx2_mlx.text.tokenizer import MAX_LENGTH

    path, rng = Path("contexts.safetensors"), np.random.default_rng(0)
    checkpoint = FIXTURES / "tiny-2.0.safetensors"
    config = EmbeddingsProcessorConfig.from_metadata(read_checkpoint(checkpoint).config)
    widths = (config.video_connector.inner_dim, config.audio_connector.inner_dim)
    video, audio = (mx.array(rng.standard_normal((1, MAX_LENGTH, width)), mx.bfloat16) for width in widths)
    output = EmbeddingsProcessorOutput(video, audio, mx.ones((1, MAX_LENGTH), mx.int32))
    save_contexts(path, ["a fox"], [output], checkpoint, GEMMA)
    return path.read_bytes()


def _context(folder: Path, rng: random.Random) -> Path:
    path = folder / "contexts.safetensors"
    path.write_bytes(mutate.safetensors(whole_contexts(), rng, "made"))
    return path


def _read_contexts(path: Path) -> None:
    from ltx2_mlx.pipelines.contexts import load_contexts

    load_contexts(path, FIXTURES / "tiny-2.0.safetensors", GEMMA)


# ---- media ----------------------------------------------------------------------------------------------------------


@functools.cache
def media_files() -> dict[str, dict[str, bytes]]:
    """Pictures, clips and audio, by name."""
    import av
    from PIL import Image

    sys.path.insert(0, str(ROOT))
    from tests.media_files import corners, saved, tone, write_audio, write_clip

    av.logging.set_level(av.logging.PANIC)
    here = Path("media")
    here.mkdir(exist_ok=True)
    kinds = ("png", "jpeg", "webp", "gif", "tiff", "bmp", "ico", "tga", "ppm", "jpeg2000")
    clips: dict[str, dict[str, Any]] = {"a.mp4": {"audio": 9000}, "a.mov": {}, "a.mkv": {"audio": 9000}}
    clips |= {"b.avi": {"codec": "mpeg4"}, "a.ts": {}, "q.mov": {"codec": "qtrle", "pix_fmt": "rgb24"}}
    clips |= {
        "v.webm": {"codec": "libvpx-vp9", "pix_fmt": "yuva420p"},
        "p.mov": {"codec": "prores_ks", "pix_fmt": "yuva444p10le"},
    }
    codecs = {"a.wav": "pcm_s16le", "a.flac": "flac", "a.mp3": "libmp3lame", "a.m4a": "aac", "a.ogg": "libopus"}
    sound = np.stack([tone(9000, 48000)] * 2)
    return {
        "picture": {f"x.{kind}": saved(Image.fromarray(corners(48, 48)), kind) for kind in kinds},
        "clip": {name: write_clip(here / name, **options).read_bytes() for name, options in clips.items()}
        | {f"x.{kind}": saved(Image.fromarray(corners(48, 48)), kind) for kind in ("gif", "png", "tiff", "webp")},
        "audio": {name: write_audio(here / name, sound, 48000, codec).read_bytes() for name, codec in codecs.items()},
    }


def _medium(kind: str) -> Callable[[Path, random.Random], Path]:
    def make(folder: Path, rng: random.Random) -> Path:
        name = rng.choice(list(media_files()[kind]))
        path = folder / f"changed-{name}"
        path.write_bytes(mutate.raw(media_files()[kind][name], rng, head=600))
        return path

    return make


def _picture(path: Path) -> None:
    from ltx2_mlx.media.images import read_picture

    read_picture(path)


def _clip(path: Path) -> None:
    from ltx2_mlx import media

    media.probe(path)
    media.load_video_conditioning(path, 32, 32, 9)


def _audio(path: Path) -> None:
    from ltx2_mlx import media

    media.probe(path)
    media.decode_audio_from_file(path)


FORMATS = {
    "checkpoint": Format(8, _tensors(*CHECKPOINTS), _checkpoint),
    "LoRA": Format(8, _tensors("tiny-2.0-lora.safetensors", "tiny-2.3-ic-lora.safetensors", inner=""), _lora),
    "text encoder": Format(4, _tensors("tiny-gemma4.safetensors", inner="gemma_config"), _gemma),
    "Gemma config.json": Format(4, _gemma_file("config.json"), _gemma),
    "Gemma index": Format(3, _gemma_file("model.safetensors.index.json"), _gemma),
    "tokenizer.json": Format(3, _gemma_file("tokenizer.json"), _tokenizer),
    "tokenizer_config.json": Format(3, _gemma_file("tokenizer_config.json"), _tokenizer),
    "contexts": Format(6, _context, _read_contexts),
    "picture": Format(8, _medium("picture"), _picture),
    "clip": Format(6, _medium("clip"), _clip),
    "audio": Format(6, _medium("audio"), _audio),
}
