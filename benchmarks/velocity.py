"""The transformer's velocity beside ltx-core's, at the widths of the released checkpoints, with random weights.

    python benchmarks/velocity.py                                    # both models and all sizes, a process a side
    python benchmarks/velocity.py --model 19b --tokens 6144 --profile

A side has the device to itself: two models of 38 GB do not fit on one card. Time does not depend on the weights'
values. Of each side the median round counts; ratio, peak and the profile are printed, and saved with ``--json``.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

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
GRIDS = {12: (1, 3, 4), 96: (2, 6, 8), 384: (4, 8, 12), 1536: (16, 8, 12), 6144: (16, 16, 24), 24576: (16, 32, 48)}
TEXT, SIGMA, FPS = 1024, 0.725, 24.0


@dataclass(frozen=True)
class Setting:
    """What both sides compute. tokens: of video, one of ``GRIDS``. kept: the first frame is an image that stays."""

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
    """Times in milliseconds, memory in GB. kernels: name → (calls, milliseconds) of one velocity."""

    milliseconds: list[float]
    peak_gb: float
    kernels: dict[str, tuple[int, float]] = field(default_factory=dict)

    @property
    def median(self) -> float:
        return statistics.median(self.milliseconds)


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
    from dataclasses import replace

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

    streams = our_inputs(setting)

    def velocity() -> None:
        mx.eval(model(*streams))

    for _ in range(2):
        velocity()
    mx.clear_cache()
    mx.reset_peak_memory()
    times = [timed(velocity) for _ in range(rounds)]
    return Measured(times, mx.get_peak_memory() / 1e9, profiled(velocity) if profile else {})


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
    peak = torch.cuda.max_memory_allocated() / 1e9 if gpu else 0.0
    return Measured(times, peak, profiled(velocity) if profile else {})


# ---- measuring ----------------------------------------------------------------------------------------------------


def timed(function: Callable[[], None]) -> float:
    """Milliseconds of one call that waits for its result."""
    start = time.perf_counter()
    function()
    return (time.perf_counter() - start) * 1e3


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
            continue
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


def in_a_process(side: str, settings: list[Setting], arguments: argparse.Namespace) -> list[Measured]:
    command = [
        sys.executable,
        __file__,
        "--side",
        side,
        "--model",
        settings[0].model,
        "--rounds",
        str(arguments.rounds),
    ]
    command += [
        "--blocks",
        str(arguments.blocks),
        "--dtype",
        arguments.dtype,
        "--tokens",
        *(str(s.tokens) for s in settings),
    ]
    command += ["--profile"] * arguments.profile + ["--kept"] * arguments.kept
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return [Measured(**row) for row in json.loads(output.splitlines()[-1])]


def show(setting: Setting, measured: dict[str, Measured]) -> dict[str, Any]:
    """Print one size, and return its row."""
    ours, theirs = measured["mlx"], measured["torch"]
    row = asdict(setting) | {
        "torch_ms": theirs.median,
        "mlx_ms": ours.median,
        "mlx_over_torch": ours.median / theirs.median,
        "torch_peak_gb": theirs.peak_gb,
        "mlx_peak_gb": ours.peak_gb,
        "rounds": {side: m.milliseconds for side, m in measured.items()},
        "kernels": {side: m.kernels for side, m in measured.items()},
    }
    print(
        f"{setting.model} {setting.blocks} blocks, {setting.tokens} tokens: torch {theirs.median:.0f} ms "
        f"{theirs.peak_gb:.1f} GB, mlx {ours.median:.0f} ms {ours.peak_gb:.1f} GB, ratio {row['mlx_over_torch']:.2f}"
    )
    for side, m in measured.items():
        if m.kernels:
            print(f"  {side}: " + ", ".join(f"{k} {ms:.0f} ms in {n}" for k, (n, ms) in kinds(m.kernels).items()))
    return row


def machine() -> dict[str, str]:
    found = {"python": platform.python_version(), "platform": platform.platform()}
    found |= {name: version(name) for name in ("mlx", "torch", "ltx-core")}
    try:
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        found["gpu"] = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        found["gpu"] = "none"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--side", choices=MODELS, help="measure this side alone and print JSON")
    parser.add_argument("--model", choices=FIXTURES, nargs="+", default=list(FIXTURES))
    parser.add_argument("--tokens", type=int, choices=GRIDS, nargs="+", default=[1536, 6144, 24576])
    parser.add_argument("--blocks", type=int, default=48)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--kept", action="store_true", help="the first frame is an image: two timesteps")
    parser.add_argument("--profile", action="store_true", help="time by kernel (CUDA)")
    parser.add_argument("--json", type=Path, help="save the rows here")
    arguments = parser.parse_args()
    rows = []
    for model in arguments.model:
        settings = [Setting(model, n, arguments.blocks, arguments.dtype, arguments.kept) for n in arguments.tokens]
        if arguments.side:
            found = measure(arguments.side, settings, arguments.rounds, arguments.profile)
            print(json.dumps([asdict(m) for m in found]))
            continue
        sides = {side: in_a_process(side, settings, arguments) for side in MODELS}
        rows += [show(s, {side: sides[side][i] for side in MODELS}) for i, s in enumerate(settings)]
    if arguments.json and not arguments.side:
        arguments.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
