"""Ours beside ltx-core at the released sizes, on one device and in one run: every block, and the parts around them.

    python benchmarks/depth.py transformer --version 2.0 --out FILE.json      (2.0: 19B, 2.3: 22B)
    python benchmarks/depth.py gemma|video_decoder|upsampler --version 2.3 --out FILE.json
    python benchmarks/depth.py table FILE.json … --out DIR                    (depth.md, depth.png)

Weights are those of ``fixtures/full_size.py``, made block by block: neither side ever holds more than one block of the
transformer, so that float32, bfloat16 and a float64 oracle of both fit on one GPU. Each block is run *isolated* (ours
and the oracle get ltx-core's input) and *free-running* (each goes on from its own). ``--size tiny`` runs it on a CPU.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import os
import platform
import runpy
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ["MLX_ENABLE_TF32"] = "0"  # before MLX is imported: float32 is float32
os.environ.setdefault("MLX_CUDA_CONV_CACHE_SIZE", "1024")  # plans: float32 and bfloat16 of a decoder need more than 128

import mlx.core as mx
import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import ltx2_mlx  # noqa: E402
from ltx2_mlx.block import TransformerArgs  # noqa: E402
from ltx2_mlx.loading.load import COMPONENTS  # noqa: E402
from ltx2_mlx.types import Modality  # noqa: E402

full = SimpleNamespace(**runpy.run_path(str(ROOT / "fixtures" / "full_size.py")))
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = ("float32", "bfloat16")
# Latent frames, rows and columns by the number of tokens; all at 24 frames a second.
GRIDS = {1536: (16, 8, 12), 6144: (16, 16, 24), 24: (3, 2, 4)}
SIGMA = 0.725
torch.set_grad_enabled(False)
torch.backends.cudnn.allow_tf32 = False
torch.backends.cuda.matmul.allow_tf32 = False
mx.set_cache_limit(1 << 31)  # both libraries share the device


# ---- from one library to the other ---------------------------------------------------------------------------------


def to_torch(array: mx.array | np.ndarray) -> torch.Tensor:
    """The same bits, on the device."""
    if isinstance(array, mx.array):
        half = array.dtype == mx.bfloat16
        host = np.array(array.view(mx.uint16) if half else array)
        return _bfloat16(host) if half else torch.from_numpy(host).to(DEVICE)
    return _bfloat16(array) if array.dtype == np.uint16 else torch.from_numpy(array).to(DEVICE)


def _bfloat16(bits: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(bits.view(np.int16)).to(DEVICE).view(torch.bfloat16)


def to_mlx(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(to_mlx(one) for one in value)
    if not isinstance(value, torch.Tensor):
        return value
    if value.dtype == torch.bfloat16:
        return mx.array(value.contiguous().view(torch.int16).cpu().numpy().view(np.uint16)).view(mx.bfloat16)
    return mx.array(value.cpu().numpy())


def doubled(value: Any) -> Any:
    """A value, or each of a tuple, in float64."""
    if isinstance(value, tuple):
        return tuple(doubled(one) for one in value)
    return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def measure(ours: Any, theirs: torch.Tensor, exact: torch.Tensor | None = None) -> dict[str, float]:
    """Correlation and the like of ours with torch's; how far each is from the oracle."""
    a, b = (to_torch(x).double().flatten() if isinstance(x, mx.array) else x.double().flatten() for x in (ours, theirs))
    centred = a - a.mean(), b - b.mean()
    r = torch.dot(*centred) / (centred[0].norm() * centred[1].norm())
    found = {"one_minus_r": 1 - r, "std_ratio": a.std() / b.std(), "rel_l2": (a - b).norm() / b.norm()}
    if exact is not None:
        c = exact.flatten()
        found |= {"ours_from_exact": (a - c).norm() / c.norm(), "torch_from_exact": (b - c).norm() / c.norm()}
    return {name: float(value) for name, value in found.items()}


def normal(name: str, *shape: int) -> np.ndarray:
    seed = full.seed_of(full.Tensor("input", name, shape))
    return np.random.Generator(np.random.Philox(key=seed)).standard_normal(shape, dtype=np.float32)


# ---- the transformer, block by block -------------------------------------------------------------------------------


class Pair:
    """Both transformers in one dtype, with one block each, which takes the weights of any block."""

    def __init__(self, config: dict[str, Any], dtype: str, top: dict[str, np.ndarray]):
        single = {"transformer": config["transformer"] | {"num_layers": 1}}
        self.dtype, self.ours_dtype = getattr(torch, dtype), getattr(mx, dtype)
        self.theirs = full.make.modules(single)["transformer"].eval()
        self.ours = COMPONENTS["transformer"].make(COMPONENTS["transformer"].read(single), {})
        self.put(top)

    def put(self, bits: dict[str, np.ndarray]) -> None:
        """Give both sides these parameters."""
        state = {path: to_torch(value).to(self.dtype) for path, value in bits.items()}
        self.theirs.load_state_dict(state, strict=False, assign=True)
        arrays = [(path, mx.array(value).view(mx.bfloat16).astype(self.ours_dtype)) for path, value in bits.items()]
        self.ours.load_weights(arrays, strict=False)
        mx.eval([value for _, value in arrays])

    @property
    def block(self) -> torch.nn.Module:
        return self.theirs.transformer_blocks[0]


@dataclasses.dataclass
class Run:
    """One pair at one size: both streams as ltx-core, ours and the oracle have them after the last block.

    given: ltx-core's arguments of a block as ours takes them, for the isolated run; only x changes.
    """

    pair: Pair
    given: list[TransformerArgs]
    theirs: list[Any]
    ours: list[TransformerArgs]
    exact: list[Any]


STREAMS = ("video", "audio")


def inputs(config: dict[str, Any], tokens: int, audio: int, text: int) -> Iterator[dict[str, np.ndarray]]:
    """Fields of a Modality for video, then audio. The first latent frame is kept, as with an image."""
    t = config["transformer"]
    frames, height, width = GRIDS[tokens]
    axes = np.meshgrid(np.arange(frames), np.arange(height), np.arange(width), indexing="ij")
    start = np.stack(axes).reshape(3, -1).astype(np.float32)
    video = np.stack([start, start + 1], -1) * np.array([[[8]], [[32]], [[32]]], np.float32)
    video[0] = np.maximum(video[0] - 7, 0) / np.float32(24)
    edges = np.maximum(np.arange(audio + 1, dtype=np.float32) * 4 - 3, 0) * np.float32(0.01)
    sound = np.stack([edges[:-1], edges[1:]], -1)[None]
    for stream, prefix, positions in (("video", "", video), ("audio", "audio_", sound)):
        inner = t[f"{prefix}num_attention_heads"] * t[f"{prefix}attention_head_dim"]
        count = positions.shape[1]
        timesteps = np.full((1, count, 1), SIGMA, np.float32)
        if stream == "video":
            timesteps[:, : height * width] = 0
        yield {
            "latent": normal(f"{stream}.latent", 1, count, 128),
            "sigma": np.array([SIGMA], np.float32),
            "timesteps": timesteps,
            "positions": positions[None],
            "context": normal(
                f"{stream}.context", 1, text, inner if t.get("caption_proj_before_connector") else t["caption_channels"]
            ),
        }


def begin(pair: Pair, fields: list[dict[str, np.ndarray]]) -> Run:
    """Both sides' arguments of the first block, each prepared by its own side."""
    from ltx_core.model.transformer.modality import Modality as TheirModality

    rounded = ("latent", "context"), ("positions",)  # in the model's dtype; of video alone
    theirs, ours = [], []
    for i, given in enumerate(fields):
        names = rounded[0] + (rounded[1] if i == 0 else ())
        made = {k: to_torch(v).to(pair.dtype) if k in names else to_torch(v) for k, v in given.items()}
        theirs.append(TheirModality(enabled=True, context_mask=None, **made))
        made = {k: mx.array(v).astype(pair.ours_dtype) if k in names else mx.array(v) for k, v in given.items()}
        ours.append(Modality(**made))
    model, our = pair.theirs, pair.ours
    prepared = [model.video_args_preprocessor.prepare(*theirs), model.audio_args_preprocessor.prepare(*theirs[::-1])]
    args = [our.prepare(*ours, our.config.video), our.prepare(*ours[::-1], our.config.audio)]
    return Run(pair, [as_ours(one) for one in prepared], prepared, args, [in_double(one) for one in prepared])


def in_double(args: Any) -> Any:
    return dataclasses.replace(args, **{f.name: doubled(getattr(args, f.name)) for f in dataclasses.fields(args)})


def as_ours(args: Any) -> TransformerArgs:
    return TransformerArgs(**{f.name: to_mlx(getattr(args, f.name)) for f in dataclasses.fields(args)})


def step(run: Run, block: int, oracle: torch.nn.Module) -> list[dict[str, Any]]:
    """One block on all sides; a row a stream."""
    from ltx_core.guidance.perturbations import BatchedPerturbationConfig

    none, share = BatchedPerturbationConfig.empty(1), []
    before = float(run.theirs[0].x.double().norm())
    hook = run.pair.block.attn2.register_forward_hook(
        lambda m, i, out: share.append(float(out.double().norm()) / before)
    )
    after = run.pair.block(*run.theirs, none)
    hook.remove()
    given = (dataclasses.replace(g, x=to_mlx(args.x)) for g, args in zip(run.given, run.theirs, strict=True))
    isolated = run.pair.ours.transformer_blocks[0](*given)
    mx.eval([args.x for args in isolated])
    run.ours = list(run.pair.ours.transformer_blocks[0](*run.ours))
    mx.eval([args.x for args in run.ours])
    exact = oracle(*(in_double(args) for args in run.theirs), none)
    run.exact = list(oracle(*run.exact, none))
    rows = []
    for i, stream in enumerate(STREAMS):
        rows.append(
            {
                "block": block,
                "stream": stream,
                "std": float(after[i].x.double().std()),
                "text_share": share[0] if i == 0 else None,
                "isolated": measure(isolated[i].x, after[i].x, exact[i].x),
                "free": measure(run.ours[i].x, after[i].x, run.exact[i].x),
            }
        )
    run.theirs = list(after)
    return rows


def finish(run: Run) -> list[dict[str, Any]]:
    """Velocities: what leaves the network, free-running."""
    rows, model = [], run.pair.theirs
    for i, (stream, prefix) in enumerate((("video", ""), ("audio", "audio_"))):
        layers = (getattr(model, prefix + name) for name in ("scale_shift_table", "norm_out", "proj_out"))
        theirs = model._process_output(*layers, run.theirs[i].x, run.theirs[i].embedded_timestep)
        ours = run.pair.ours._output(run.ours[i], getattr(run.pair.ours.config, stream))
        row = {"block": "velocity", "stream": stream, "std": float(theirs.double().std()), "text_share": None}
        rows.append(row | {"isolated": None, "free": measure(ours, theirs)})
    return rows


def transformer(args: argparse.Namespace, described: dict[str, Any], pool: ThreadPoolExecutor) -> list[dict[str, Any]]:
    config = described["config"]
    shapes = {
        k: tuple(v.shape)
        for k, v in full.make.modules({"transformer": config["transformer"]})["transformer"].state_dict().items()
    }
    top = {
        path: bits(path, shape, pool) for path, shape in shapes.items() if not path.startswith("transformer_blocks.")
    }
    pairs = {dtype: Pair(config, dtype, top) for dtype in args.dtypes}
    audio, text = (11, 13) if args.size == "tiny" else (126, 1024)
    runs = {}
    for tokens in [24] if args.size == "tiny" else args.tokens:
        fields = list(inputs(config, tokens, audio, text))
        runs |= {(dtype, tokens): begin(pair, fields) for dtype, pair in pairs.items()}
    rows: list[dict[str, Any]] = []
    for block in range(args.blocks):
        begun, prefix = time.monotonic(), f"transformer_blocks.{block}."
        weights = {
            path.replace(prefix, "transformer_blocks.0.", 1): bits(path, shape, pool)
            for path, shape in shapes.items()
            if path.startswith(prefix)
        }
        made = time.monotonic()
        for pair in pairs.values():
            pair.put(weights)
        oracle = copy.deepcopy(next(iter(pairs.values())).block).double()
        for (dtype, tokens), run in runs.items():
            rows += [{"dtype": dtype, "tokens": tokens} | row for row in step(run, block, oracle)]
        del oracle
        if DEVICE == "cuda":
            torch.cuda.empty_cache()
        last = {(r["dtype"], r["tokens"]): r for r in rows[-2 * len(runs) :: 2]}
        said = ", ".join(
            f"{d} {t}: std {r['std']:.3g} 1-r {r['free']['one_minus_r']:.1e}" for (d, t), r in last.items()
        )
        print(f"block {block}: weights {made - begun:.1f} s, all {time.monotonic() - begun:.1f} s; {said}", flush=True)
        keep(args, rows)
    for (dtype, tokens), run in runs.items():
        rows += [{"dtype": dtype, "tokens": tokens} | row for row in finish(run)]
    return rows


def bits(path: str, shape: tuple[int, ...], pool: ThreadPoolExecutor, part: str = "transformer") -> np.ndarray:
    found: np.ndarray = full.values(full.Tensor(part, path, shape), pool)
    return found


# ---- the parts around it -------------------------------------------------------------------------------------------


def gemma(args: argparse.Namespace, described: dict[str, Any], pool: ThreadPoolExecutor) -> list[dict[str, Any]]:
    """All hidden states of 1,024 tokens, a third of them pads on the left. One side after the other: 47 GB each."""
    full.make.import_torchaudio()
    from transformers import Gemma3Config
    from transformers.models.gemma3.modeling_gemma3 import Gemma3TextModel

    config = full.make.gemma_config() if args.size == "tiny" else full.gemma_config(args.blocks)
    prefix = "language_model.model."
    shapes = {k: shape for k, shape in full.make.gemma_shapes(config).items() if k.startswith(prefix)}
    weights = {key.removeprefix(prefix): bits(key, shape, pool, "gemma") for key, shape in shapes.items()}
    length, words = (23, 512) if args.size == "tiny" else (1024, 262_144)
    ids = np.random.Generator(np.random.Philox(key=1)).integers(10, words, (1, length))
    mask = (np.arange(length) >= length // 3).astype(np.int64)[None]
    with torch.device(DEVICE):
        model = Gemma3TextModel(Gemma3Config.from_dict(config).text_config).eval()
    for name, parameter in model.named_parameters():
        parameter.data = to_torch(weights[name]).float()
    theirs = {}
    for dtype in DTYPES:  # float32 first: bfloat16 holds these weights exactly
        for parameter in model.parameters():
            parameter.data = parameter.data.to(getattr(torch, dtype))
        states = model(
            input_ids=to_torch(ids), attention_mask=to_torch(mask), output_hidden_states=True, use_cache=False
        )
        theirs[dtype] = [state.cpu() for state in states.hidden_states]
    del model, states, parameter
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
    rows = []
    for dtype in args.dtypes:
        ours = COMPONENTS["gemma"].make(COMPONENTS["gemma"].read(config), {})
        arrays = [(k, mx.array(v).view(mx.bfloat16).astype(getattr(mx, dtype))) for k, v in weights.items()]
        ours.load_weights(arrays)
        states = ours(mx.array(ids), mx.array(mask))
        mx.eval(states)
        seen = slice(length // 3, None)  # pads hold what nobody reads
        for i, (a, b, exact) in enumerate(zip(states, theirs[dtype], theirs["float32"], strict=True)):
            compared = measure(a[:, seen], b[:, seen].to(DEVICE), exact[:, seen].to(DEVICE).double())
            std = float(b[:, seen].double().std())
            rows.append({"dtype": dtype, "tokens": length, "block": i, "stream": "text", "std": std, "free": compared})
        del ours, arrays, states
        mx.clear_cache()
    return rows


def convolutional(
    args: argparse.Namespace, described: dict[str, Any], pool: ThreadPoolExecutor
) -> list[dict[str, Any]]:
    """The video decoder on 121×512×768 in the default tiles, or the upsampler on its latent; both sides read a file."""
    from safetensors.torch import load_file

    part, config = args.part, described["config"]
    tiny = args.size == "tiny"
    shape = (1, 128, 3, 4, 5) if tiny else (1, 128, 16, 16, 24)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "part.safetensors"
        tensors = full.tensors_of(config, [part] if part != "upsampler" else None)
        full.write_file(path, tensors, full.metadata(described), pool)
        theirs = full.make.modules(config)[part].eval()
        state = load_file(str(path))
        names = {full.make.key(part, name): name for name in theirs.state_dict()}
        theirs.load_state_dict({name: state[key].to(DEVICE) for key, name in names.items()}, assign=True)
        rows = []
        latent = normal(part, *shape)
        exact = None
        for dtype in args.dtypes:
            theirs = theirs.to(getattr(torch, dtype))
            x = to_torch(latent).to(getattr(torch, dtype))
            expected = (tiled(part, theirs, x) if not tiny else theirs(x)).float()
            exact = expected.double() if dtype == "float32" else exact
            ours = ltx2_mlx.load(part, path, getattr(mx, dtype))
            y = mx.array(latent).astype(getattr(mx, dtype))
            result = (our_tiled(part, ours, y) if not tiny else ours(y)).astype(mx.float32)
            mx.eval(result)
            row = {
                "dtype": dtype,
                "tokens": int(np.prod(shape[2:])),
                "block": part,
                "stream": str(tuple(expected.shape)),
            }
            rows.append(row | {"std": float(expected.double().std()), "free": measure(result, expected, exact)})
            print(rows[-1], flush=True)
            del ours
            mx.clear_cache()
    return rows


def tiled(part: str, module: Any, x: torch.Tensor) -> torch.Tensor:
    if part == "upsampler":
        return module(x)
    from ltx_core.model.video_vae import TilingConfig

    return torch.cat(list(module.tiled_decode(x, TilingConfig.default())), dim=2)


def our_tiled(part: str, module: Any, x: mx.array) -> mx.array:
    if part == "upsampler":
        return module(x)
    from ltx2_mlx.tiling import TilingConfig

    return mx.concatenate(list(module.tiled_decode(x, TilingConfig.default())), axis=2)


# ---- results -------------------------------------------------------------------------------------------------------


def machine() -> dict[str, str]:
    gpu = torch.cuda.get_device_name() if DEVICE == "cuda" else platform.machine()
    return {"device": gpu, "mlx": mx.__version__, "torch": torch.__version__, "where": str(mx.default_device())}


def keep(args: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Write what there is: a run that is cut off keeps it."""
    said = {"part": args.part, "version": args.version, "size": args.size} | machine()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(said | {"rows": rows}, indent=1) + "\n")


PARTS = {"transformer": transformer, "gemma": gemma, "video_decoder": convolutional, "upsampler": convolutional}


def run(args: argparse.Namespace) -> None:
    name = f"{args.version}-upsampler-x2" if args.part == "upsampler" else args.version
    if args.size == "tiny":
        described = json.loads((ROOT / "fixtures" / "configs" / f"tiny-{name}.json").read_text())
        described["config"].get("transformer", {})["num_layers"] = args.blocks
    else:
        described = full.description(name, args.blocks)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        keep(args, PARTS[args.part](args, described, pool))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=[*PARTS, "table"])
    parser.add_argument("files", nargs="*", type=Path, help="of table: results")
    parser.add_argument("--version", default="2.0", choices=("2.0", "2.3"))
    parser.add_argument("--size", default="full", choices=("full", "tiny"))
    parser.add_argument("--blocks", type=int, default=48)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1536, 6144], choices=(1536, 6144))
    parser.add_argument("--dtypes", nargs="+", default=[*DTYPES], choices=DTYPES)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.part == "table":
        runpy.run_path(str(ROOT / "benchmarks" / "depth_table.py"))["table"](args.files, args.out)
    else:
        run(args)


if __name__ == "__main__":
    main()
