"""The transformer's velocity beside ltx-core's, at the widths of the released checkpoints, with random weights.

    python benchmarks/velocity.py --json reports/latest/velocity.json
    python benchmarks/velocity.py --model 19b --tokens 6144 --profile

On an NVIDIA GPU: 48 blocks in bfloat16. On a CPU: 4 blocks in float32. A side has the machine to itself, in a process
of its own (two models of 38 GB do not fit on one card); the sides take turns, and the median round of each counts.
Weights are random (time does not depend on them), inputs are those of a pipeline's first step: ours gives all tokens
one timestep where they share it, ltx-pipelines gives each its own.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

from measuring import machine, resident, timed

CONFIGS = Path(__file__).parents[1] / "fixtures" / "configs"
FIXTURES = {"19b": "tiny-2.0", "22b": "tiny-2.3"}  # small checkpoints of the same versions
WIDTHS = {
    "num_attention_heads": 32,
    "attention_head_dim": 128,
    "cross_attention_dim": 4096,
    "caption_channels": 3840,
    "audio_num_attention_heads": 32,
    "audio_attention_head_dim": 64,
    "audio_cross_attention_dim": 2048,
}
# Tokens of video → latent frames, rows and columns: 9 frames of 192×256 pixels, 121 of 256×384, 512×768 and 1024×1536.
GRIDS = {96: (2, 6, 8), 1536: (16, 8, 12), 6144: (16, 16, 24), 24576: (16, 32, 48)}
TEXT, SIGMA, FPS = 1024, 0.725, 24.0
TURNS = 2


@dataclass(frozen=True)
class Setting:
    """What both sides compute. tokens: of video, in ``GRIDS``. kept: the first frame is an image, which stays."""

    model: str
    tokens: int
    blocks: int = 48
    dtype: str = "bfloat16"
    kept: bool = False

    @property
    def transformer(self) -> dict[str, Any]:
        """The checkpoint's section of that name."""
        config = json.loads((CONFIGS / f"{FIXTURES[self.model]}.json").read_text())["config"]
        section: dict[str, Any] = config["transformer"] | WIDTHS | {"num_layers": self.blocks}
        return section

    @property
    def audio_tokens(self) -> int:
        frames = (GRIDS[self.tokens][0] - 1) * 8 + 1
        return round(frames / FPS * 25)


@dataclass
class Measured:
    """Times in milliseconds, memory in GB. kernels: name → calls and milliseconds in one velocity.

    difference: relative, of ours as it is shipped to ours without compiled functions, kernels and early starts.
    """

    milliseconds: list[float]
    peak_gb: float
    difference: float = 0.0
    kernels: dict[str, tuple[int, float]] = field(default_factory=dict)

    @property
    def median(self) -> float:
        return statistics.median(self.milliseconds)

    def and_also(self, other: Measured) -> Measured:
        """Two turns of one side as one."""
        times = self.milliseconds + other.milliseconds
        return replace(self, milliseconds=times, peak_gb=max(self.peak_gb, other.peak_gb))


def weight_scale(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Mean and deviation of a parameter's random values, so that activations stay near 1 through all blocks."""
    if name.endswith("norm.weight"):
        return 1.0, 0.1
    return 0.0, (shape[1] ** -0.5 if len(shape) == 2 and name.endswith("weight") else 0.1)


# ---- ours ---------------------------------------------------------------------------------------------------------


def our_model(setting: Setting) -> Any:
    """The velocity model with random weights, evaluated."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    from ltx2_mlx.config import TransformerConfig
    from ltx2_mlx.transformer import LTXModel

    mx.random.seed(0)
    dtype = getattr(mx, setting.dtype)
    model = LTXModel(TransformerConfig.from_metadata({"transformer": setting.transformer}))
    for name, old in tree_flatten(model.parameters()):
        mean, deviation = weight_scale(name, old.shape)
        new = (mx.random.normal(old.shape, dtype=dtype) * deviation + mean).astype(dtype)
        mx.eval(new)
        model.load_weights([(name, new)], strict=False)
    return model


def our_inputs(setting: Setting) -> tuple[Any, Any]:
    """Both streams as a pipeline's first step gives them to the transformer."""
    import mlx.core as mx

    from ltx2_mlx.config import TransformerConfig
    from ltx2_mlx.diffusion.denoisers import modality_from_latent_state
    from ltx2_mlx.diffusion.latent_state import AudioLatentTools, VideoLatentTools
    from ltx2_mlx.diffusion.patchifiers import AudioPatchifier, VideoLatentPatchifier
    from ltx2_mlx.types import AudioLatentShape, VideoLatentShape

    dtype = getattr(mx, setting.dtype)
    config = TransformerConfig.from_metadata({"transformer": setting.transformer})
    tools = (
        VideoLatentTools(VideoLatentPatchifier(patch_size=1), VideoLatentShape(1, 128, *GRIDS[setting.tokens]), FPS),
        AudioLatentTools(AudioPatchifier(patch_size=1), AudioLatentShape(1, 8, setting.audio_tokens, 16)),
    )
    modalities = []
    for tool, stream in zip(tools, (config.video, config.audio), strict=True):
        state = tool.create_initial_state(dtype)
        state = replace(state, latent=mx.random.normal(state.latent.shape).astype(dtype))
        if setting.kept and stream.name == "video":
            first = mx.arange(setting.tokens)[None, :, None] < setting.tokens // GRIDS[setting.tokens][0]
            state = replace(state, denoise_mask=mx.where(first, 0.0, state.denoise_mask))
        width = stream.inner_dim if config.caption_proj_before_connector else config.caption_channels
        context = mx.random.normal((1, TEXT, width)).astype(dtype)
        modalities.append(modality_from_latent_state(state, context, SIGMA))
        mx.eval(modalities[-1].latent, modalities[-1].timesteps, modalities[-1].positions, context)
    return modalities[0], modalities[1]


def measure_ours(model: Any, setting: Setting, rounds: int, profile: bool) -> Measured:
    import mlx.core as mx

    from ltx2_mlx.nn import fused

    streams = our_inputs(setting)

    def velocity() -> None:
        mx.eval(model(*streams))

    for _ in range(2):
        velocity()
    mx.clear_cache()
    mx.reset_peak_memory()
    times = [timed(velocity) for _ in range(rounds)]
    peak = mx.get_peak_memory() / 1e9 if mx.default_device().type == mx.gpu else resident()
    shipped = model(*streams)[0].astype(mx.float32)
    with mock.patch.object(fused, "pays", lambda: False):
        plain = model(*streams)[0].astype(mx.float32)
    difference = (mx.linalg.norm(shipped - plain) / mx.linalg.norm(plain)).item()
    return Measured(times, peak, difference, profiled(velocity) if profile else {})


# ---- ltx-core's ---------------------------------------------------------------------------------------------------


def their_model(setting: Setting) -> Any:
    """ltx-core's velocity model with random weights, on the GPU where there is one."""
    import torch
    from ltx_core.model.transformer import LTXModelConfigurator

    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    with torch.device("meta"):
        model = LTXModelConfigurator.from_config({"transformer": setting.transformer})
    model = model.to(getattr(torch, setting.dtype)).to_empty(device="cuda" if torch.cuda.is_available() else "cpu")
    for name, parameter in model.named_parameters():
        parameter.normal_(*weight_scale(name, tuple(parameter.shape)))
    return model.eval()


def their_inputs(setting: Setting) -> tuple[Any, Any]:
    """Both streams as ltx-pipelines gives them: a timestep for each token."""
    import torch
    from ltx_core.components.patchifiers import AudioPatchifier, VideoLatentPatchifier
    from ltx_core.model.transformer.modality import Modality
    from ltx_core.tools import AudioLatentTools, VideoLatentTools
    from ltx_core.types import AudioLatentShape, VideoLatentShape

    dtype, device = getattr(torch, setting.dtype), "cuda" if torch.cuda.is_available() else "cpu"
    transformer = setting.transformer
    heads = [(transformer[f"{p}num_attention_heads"], transformer[f"{p}attention_head_dim"]) for p in ("", "audio_")]
    tools = (
        VideoLatentTools(VideoLatentPatchifier(patch_size=1), VideoLatentShape(1, 128, *GRIDS[setting.tokens]), FPS),
        AudioLatentTools(AudioPatchifier(patch_size=1), AudioLatentShape(1, 8, setting.audio_tokens, 16)),
    )
    modalities = []
    for tool, (number, size) in zip(tools, heads, strict=True):
        state = tool.create_initial_state(device=device, dtype=dtype)
        mask = state.denoise_mask.clone()
        if setting.kept and not modalities:
            mask[:, : setting.tokens // GRIDS[setting.tokens][0]] = 0
        width = number * size if transformer.get("caption_proj_before_connector") else transformer["caption_channels"]
        modalities.append(
            Modality(
                latent=torch.randn(state.latent.shape, device=device).to(dtype),
                sigma=torch.full((1,), SIGMA, device=device),
                timesteps=mask * SIGMA,
                positions=state.positions,
                context=torch.randn((1, TEXT, width), device=device).to(dtype),
            )
        )
    return modalities[0], modalities[1]


def measure_theirs(model: Any, setting: Setting, rounds: int, profile: bool) -> Measured:
    import torch

    streams, gpu = their_inputs(setting), torch.cuda.is_available()

    def velocity() -> None:
        model(*streams, None)
        if gpu:
            torch.cuda.synchronize()

    for _ in range(2):
        velocity()
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    times = [timed(velocity) for _ in range(rounds)]
    peak = torch.cuda.max_memory_allocated() / 1e9 if gpu else resident()
    return Measured(times, peak, kernels=profiled(velocity) if profile else {})


# ---- measuring ----------------------------------------------------------------------------------------------------


def profiled(function: Callable[[], None]) -> dict[str, tuple[int, float]]:
    """Kernel → (calls, milliseconds) of one call. CUPTI, by way of torch's profiler, sees MLX's kernels as well."""
    import torch
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    if not torch.cuda.is_available():
        return {}
    torch.zeros(1, device="cuda")
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        function()
        torch.cuda.synchronize()
    kernels: dict[str, tuple[int, float]] = {}
    for event in recorded.events():
        if event.device_type != DeviceType.CUDA or event.name.startswith("Activity"):
            continue  # the host's calls, and CUPTI's own
        calls, total = kernels.get(event.name, (0, 0.0))
        kernels[event.name] = calls + 1, total + event.device_time / 1e3
    return kernels


KINDS = {  # kind of kernel → what its name holds; the first that fits
    "attention": r"flash|fmha|sdpa|softmax|attention",
    "linear": r"gemm|cutlass|nvjet|xmma|cublas|gemv|splitK",
    "norm": r"rms|norm|reduce",
    "copy": r"copy|memcpy|memset|concat|cat",
    "elementwise": r".",
}


def kinds(kernels: dict[str, tuple[int, float]]) -> dict[str, tuple[int, float]]:
    """Kind → (calls, milliseconds)."""
    result: dict[str, tuple[int, float]] = {}
    for name, (calls, ms) in kernels.items():
        kind = next(k for k, pattern in KINDS.items() if re.search(pattern, name, re.IGNORECASE))
        old = result.get(kind, (0, 0.0))
        result[kind] = old[0] + calls, old[1] + ms
    return dict(sorted(result.items()))


MODELS: dict[str, tuple[Callable[..., Any], Callable[..., Measured]]] = {
    "torch": (their_model, measure_theirs),
    "mlx": (our_model, measure_ours),
}


def measure(side: str, settings: list[Setting], rounds: int, profile: bool) -> list[Measured]:
    """One side, in this process: one model, at several sizes."""
    build, run = MODELS[side]
    model = build(settings[0])
    return [run(model, setting, rounds, profile) for setting in settings]


def in_a_process(side: str, settings: list[Setting], rounds: int, profile: bool) -> list[Measured]:
    """The same, in a process of its own."""
    first = settings[0]
    command = [sys.executable, __file__, "--side", side, "--model", first.model, "--rounds", str(rounds)]
    command += ["--blocks", str(first.blocks), "--dtype", first.dtype, "--tokens", *(str(s.tokens) for s in settings)]
    command += ["--profile"] * profile + ["--kept"] * first.kept
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return [Measured(**row) for row in json.loads(output.splitlines()[-1])]


def compare(settings: list[Setting], rounds: int, profile: bool) -> list[dict[str, Any]]:
    """Both sides in turn, at several sizes of one model: a row for each size."""
    sides: dict[str, list[Measured]] = {}
    for turn in range(TURNS):
        for side in MODELS:
            found = in_a_process(side, settings, rounds, profile and not turn)
            sides[side] = [a.and_also(b) for a, b in zip(sides[side], found, strict=True)] if turn else found
    return [_row(setting, sides["mlx"][i], sides["torch"][i]) for i, setting in enumerate(settings)]


def _row(setting: Setting, ours: Measured, theirs: Measured) -> dict[str, Any]:
    return asdict(setting) | {
        "torch_ms": theirs.median,
        "mlx_ms": ours.median,
        "mlx_over_torch": ours.median / theirs.median,
        "torch_peak_gb": theirs.peak_gb,
        "mlx_peak_gb": ours.peak_gb,
        "peak_over_torch": ours.peak_gb / theirs.peak_gb,
        "difference": ours.difference,
        "rounds": {"torch": theirs.milliseconds, "mlx": ours.milliseconds},
        "kinds": {"torch": kinds(theirs.kernels), "mlx": kinds(ours.kernels)},
        "kernels": {"torch": theirs.kernels, "mlx": ours.kernels},
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = ["| velocity | ltx-core, ms / GB | ours, ms / GB | time | memory |", "|---|---|---|---|---|"]
    for row in rows:
        name = f"{row['model']}, {row['blocks']} blocks, {row['tokens']:,} tokens" + ", an image kept" * row["kept"]
        theirs, ours = (f"{row[f'{s}_ms']:,.0f} / {row[f'{s}_peak_gb']:.1f}" for s in ("torch", "mlx"))
        lines.append(f"| {name} | {theirs} | {ours} | {row['mlx_over_torch']:.2f} × | {row['peak_over_torch']:.2f} × |")
    return "\n".join(lines)


def profile_table(rows: list[dict[str, Any]]) -> str:
    """Milliseconds by kind of kernel, and how many there are."""
    lines = ["| velocity | side | " + " | ".join(KINDS) + " |", "|---" * (len(KINDS) + 2) + "|"]
    for row in rows:
        for side, found in row["kinds"].items():
            cells = (f"{ms:,.0f} in {calls:,}" for calls, ms in (found.get(kind, (0, 0.0)) for kind in KINDS))
            lines.append(f"| {row['model']}, {row['tokens']:,} | {side} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    on = machine()
    gpu = on["gpu"] != "none"
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--side", choices=MODELS, help="measure this side alone, and print JSON")
    parser.add_argument("--model", choices=FIXTURES, nargs="+", default=list(FIXTURES))
    parser.add_argument("--tokens", type=int, choices=GRIDS, nargs="+", default=list(GRIDS)[1:] if gpu else [96])
    parser.add_argument("--blocks", type=int, default=48 if gpu else 4)
    parser.add_argument("--dtype", default="bfloat16" if gpu else "float32")
    parser.add_argument("--rounds", type=int, default=4, help="in each turn")
    parser.add_argument("--kept", action="store_true", help="the first frame is an image: its tokens have timestep 0")
    parser.add_argument("--profile", action="store_true", help="time by kind of kernel (NVIDIA)")
    parser.add_argument("--json", type=Path, help="save the rows here; what was there is compared")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for model in arguments.model:
        settings = [Setting(model, n, arguments.blocks, arguments.dtype, arguments.kept) for n in arguments.tokens]
        if arguments.side:
            found = measure(arguments.side, settings, arguments.rounds, arguments.profile)
            print(json.dumps([asdict(m) for m in found]))
            return
        rows += compare(settings, arguments.rounds, arguments.profile)
        print(table(rows), flush=True)
    if arguments.profile:
        print(profile_table(rows))
    if arguments.json:
        if arguments.json.exists():
            print("last time\n" + table(json.loads(arguments.json.read_text())["rows"]))
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps({"machine": on, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
