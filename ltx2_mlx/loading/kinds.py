"""What a file is that is not what was asked for, in words that say what to get instead. Nothing is unpacked or run."""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from pathlib import Path

from ..config.reading import cut, parse_json
from ..errors import CheckpointError

_GET = "get the .safetensors file"
_UNFINISHED = (".incomplete", ".part", ".partial", ".aria2", ".crdownload", ".download", ".tmp", ".!qb", ".opdownload")
_STARTS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer and not the file itself: run `git lfs pull`, or download it again"),
    (b"GGUF", f"a GGUF file, whose weights are packed for llama.cpp and not read here: {_GET} in bfloat16 or float8"),
    (b"GGML", f"a GGML file, which is not read here: {_GET} in bfloat16 or float8"),
    (b"\x93NUMPY", f"a NumPy array: {_GET}"),
    (b"\x89HDF", f"an HDF5 file: {_GET}"),
    (b"\x1f\x8b", "a gzip archive: unpack it"),
    (b"BZh", "a bzip2 archive: unpack it"),
    (b"7z\xbc\xaf", "a 7z archive: unpack it"),
    (b"Rar!", "a RAR archive: unpack it"),
    (b"\xfd7zXZ", "an xz archive: unpack it"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive: unpack it"),
    (b"\x89PNG", f"a picture: {_GET}"),
    (b"\xff\xd8\xff", f"a picture: {_GET}"),
    (b"RIFF", f"a media file: {_GET}"),
    (b"%PDF", f"a PDF document: {_GET}"),
    (b"\x7fELF", f"a program: {_GET}"),
    (b"MZ", f"a program: {_GET}"),
)


def kind_of_file(path: Path) -> str:
    """What a file is that cannot be read as safetensors: one sentence without its name. Raises OSError."""
    with path.open("rb") as file:
        head = file.read(4096)
    name = path.name.lower()
    if name.endswith(_UNFINISHED) or path.with_name(f"{path.name}.aria2").exists():
        return "its download has not ended: wait for it, or start it again"
    if not head:
        return "empty file: download it again"
    for start, said in _STARTS:
        if head.startswith(start):
            return said
    if head.startswith(b"PK\x03\x04"):
        pickled = b"data.pkl" in head or name.endswith((".pt", ".pth", ".ckpt", ".bin"))
        return _PICKLE if pickled else f"a zip archive: unpack it, or {_GET}"
    if (head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05") or name.endswith((".pt", ".pth", ".ckpt")):
        return _PICKLE
    if name.endswith((".onnx", ".onnx_data")) or (head[:1] == b"\x08" and b"onnx" in head[:256]):
        return f"an ONNX model, which is not read here: {_GET}"
    if head[4:8] == b"ftyp":
        return f"a media file: {_GET}"
    if head[257:262] == b"ustar":
        return "a tar archive: unpack it"
    if head[4:8] == b"TFL3" or name.endswith((".tflite", ".engine", ".plan", ".mlmodel", ".h5", ".msgpack", ".npz")):
        return f"a model for another program, which is not read here: {_GET}"
    return _text(path, head)


_PICKLE = f"a PyTorch pickle, which can run code when it is read and is not read here: {_GET}"


def _text(path: Path, head: bytes) -> str:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:64].lower()
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<body", b"<?xml", b"<error")):
        return (
            "a web page and not the file itself: open its address in a browser, log in if asked, and download it again"
        )
    if start.startswith(b"{"):
        return _json(path)
    if not head.strip(b"\x00"):
        return "not a safetensors file (it begins with zeros: its download may not have ended)"
    try:
        first = head.decode()
    except UnicodeDecodeError:
        return "not a safetensors file"
    if all(character.isprintable() or character.isspace() for character in first):
        return f"not a safetensors file but text ({cut(first, 60)!r}): download it again"
    return "not a safetensors file"


def _json(path: Path) -> str:
    try:
        content = parse_json(path.read_bytes(), path) if path.stat().st_size < 1 << 26 else {}
    except CheckpointError:
        content = {}
    if isinstance(files := content.get("weight_map"), dict):
        return f"an index of {_shards(files)}, which are not read one by one: get the model as one file"
    if "error" in content:
        return f"an answer of a server and not the file itself ({cut(str(content['error']), 60)!r}): download it again"
    return f"a JSON file: {_GET}"


def _shards(files: Mapping[str, object]) -> str:
    return f"{len({str(name) for name in files.values()})} shards"


def kind_of_folder(path: Path) -> str:
    """What a folder is that was given in the place of a checkpoint, and what to give."""
    names = sorted(entry.name for entry in path.iterdir())
    weights = [name for name in names if name.endswith(".safetensors")]
    if "model_index.json" in names:
        return "a folder in diffusers' layout, whose weights have other names: get the single .safetensors file"
    if any(name.endswith(".safetensors.index.json") for name in names):
        return "a folder of shards, expected a .safetensors file: get the model as one file"
    if {"split_model.json", "quantize_config.json"} & {*names} or any(name.endswith(".npz") for name in names):
        return "a folder that was converted for another MLX program: get the original .safetensors file"
    if "config.json" in names and "tokenizer.json" in names:
        return "a folder of a language model, expected a .safetensors file: Gemma goes to --gemma-root"
    if "snapshots" in names and "blobs" in names:
        return "a folder of Hugging Face's cache, expected a .safetensors file: give one below its snapshots"
    if path.suffix in (".mlpackage", ".mlmodelc"):
        return "a model for Core ML, which is not read here: get the original .safetensors file"
    if "config.json" in names and weights:
        return "a folder that was converted for another program, expected a .safetensors file: get the original one"
    found = f"; it has {_some(weights)}" if weights else ""
    return f"a folder, expected a .safetensors file{found}"


def check_regular(path: Path) -> None:
    """Raises CheckpointError for what is no regular file: to open a FIFO waits for ever, a device never ends."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise CheckpointError(f"{path}: {kind_of_folder(path)}")
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:  # a name that is too long, or holds a zero
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise CheckpointError(f"{path}: cannot be read ({reason})") from None
    if not stat.S_ISREG(mode):
        kinds = (
            (stat.S_ISFIFO, "a FIFO"),
            (stat.S_ISSOCK, "a socket"),
            (stat.S_ISCHR, "a device"),
            (stat.S_ISBLK, "a device"),
        )
        kind = next((said for test, said in kinds if test(mode)), "not a file")
        raise CheckpointError(f"{path}: {kind}, expected a .safetensors file")


# ---- by the names of tensors --------------------------------------------------------------------------------------

# What the keys' endings say of weights whose numbers are packed in a way that is not read here.
_PACKED: tuple[tuple[str, str], ...] = (
    (r"\.(absmax|quant_map|nested_absmax|quant_state\.bitsandbytes__\w+)$", "packed by bitsandbytes (nf4 or fp4)"),
    (r"\.SCB$", "packed by bitsandbytes (int8)"),
    (r"\.(qzeros|g_idx)$", "packed by GPTQ or AWQ"),
    (r"\.(wscales|wcscales|wtscale|smooth_factor|smooth)$", "packed by SVDQuant (nunchaku)"),
    (r"\.(weight_scale_2|weight_global_scale)$", "packed as nvfp4"),
    (r"\.(qweight|weight_packed|W_q|_packed_weight)$", "packed in a few bits"),
    (r"\.weight_scale_inv$", "float8 with a scale for each block"),
)
_ADAPTERS = re.compile(
    r"lora_[AB]|lora[._](down|up)|lora_linear|lokr_|hada_|dora_scale|lora_magnitude|(^|[._])oft_|\.diff$"
)
_OTHERS: tuple[tuple[str, str], ...] = (
    (
        r"(^|\.)transformer_blocks\.\d+\.\w+\.(to_out|proj_in|proj_out)\.(weight|bias|scales|biases)$",
        "a transformer with the names of another MLX program",
    ),
    (r"^(transformer\.)?(proj_in|time_embed|audio_time_embed|audio_proj_in)\.", "a transformer in diffusers' layout"),
    (
        r"(^|\.)(mid_block|up_blocks|down_blocks)\.\S*\.?(resnets|resamplers|upsamplers|downsamplers)\.",
        "a VAE of diffusers",
    ),
    (r"^(language_model\.)?model\.(language_model\.)?layers\.\d+\.self_attn\.", "a language model"),
    (r"(^|\.)(double_blocks|single_blocks|double_stream_modulation)\b", "a model of the Flux or Hunyuan family"),
    (r"(^|\.)blocks\.\d+\.(self_attn|cross_attn)\.", "a model of the Wan family"),
    (r"(^|\.)(input_blocks|output_blocks|middle_block)\.", "a model of the Stable Diffusion family"),
    (r"(^|\.)joint_blocks\.\d+\.", "a model of the Stable Diffusion 3 family"),
    (r"^text_model\.encoder\.|^encoder\.block\.\d+\.layer\.", "a text encoder of another model"),
)
_PART = re.compile(r"-(\d{5})-of-(\d{5})\.safetensors$")


BY_MLX = "quantized by MLX"


def packed(dtypes: Mapping[str, str]) -> str | None:
    """How the weights are packed; only ``BY_MLX`` is read here. dtypes: key → safetensors' name."""
    for pattern, said in _PACKED:
        if any(map(re.compile(pattern).search, dtypes)):
            return said
    layers = {key: dtype for key, dtype in dtypes.items() if key.endswith((".weight", ".qdata", "_data"))}
    if any(dtype.startswith(("F4", "F6", "F8_E8")) for dtype in dtypes.values()):
        return "in 4 or 6 bits"
    if any(dtype == "I8" for dtype in layers.values()):
        return "in int8"
    if any(dtype == "U32" for dtype in layers.values()) or any(key.endswith(".scales") for key in dtypes):
        return BY_MLX
    if any(dtype in ("U8", "I32") for dtype in layers.values()):
        return "packed in a few bits"
    return None


def kind_of_weights(path: Path, dtypes: Mapping[str, str], metadata: Mapping[str, str]) -> str | None:
    """What a safetensors file is that is no part of LTX-2 as it is read here, and what to get; None where the names of
    its tensors do not say."""
    if not dtypes:
        return "it holds no tensors"
    if part := _PART.search(path.name):
        return f"one of {int(part[2])} shards: get the model as one file"
    if metadata.get("format") == "ltx2-mlx-contexts" or any(key == "prompts" for key in metadata):
        return "a file of encoded prompts: it goes to --context"
    if any(_ADAPTERS.search(key) for key in dtypes):
        return "a LoRA or another adapter, not a model: it goes to --lora"
    how = packed(dtypes)
    if how and how != BY_MLX:
        return f"its weights are {how}, which is not read here: get the file in bfloat16 or float8"
    for pattern, said in _OTHERS:
        if any(re.search(pattern, key) for key in dtypes):
            return f"{said}, expected one of LTX-2 in the official layout"
    if how and not any("transformer_blocks." in key for key in dtypes):
        return f"its weights are {how}, and it has no transformer: get the file in bfloat16 or float8"
    return None


def _some(names: list[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")
