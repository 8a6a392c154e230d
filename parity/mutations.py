"""Faults that real ports shipped, planted one at a time in a copy of the product's source.

A mutation is one edit: it must apply exactly once, or the mutant is stale and says so. Ids are those of the fault
list that the project keeps; the tap is where the fault must be seen first.
"""

from __future__ import annotations

import contextlib
import importlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "ltx2_mlx"


@dataclass(frozen=True)
class Mutation:
    """``old`` becomes ``new`` in ``file``; running ``case`` of ``config`` must fail first at ``tap``."""

    id: str
    fault: str
    file: str
    old: str
    new: str
    tap: str
    config: str = "tiny-2.3"
    case: str = "base"
    stage: str = "transformer"
    dtype: str = "float32"


@contextlib.contextmanager
def planted(mutation: Mutation | None) -> Iterator[None]:
    """While it lasts, ``import ltx2_mlx`` gives a copy of the package with the fault in it (None: a plain copy)."""
    kept = {name: module for name, module in sys.modules.items() if name.split(".")[0] == PACKAGE}
    source = Path(importlib.import_module(PACKAGE).__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(source, Path(folder) / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
        if mutation:
            file = Path(folder) / PACKAGE / mutation.file
            text = file.read_text()
            if text.count(mutation.old) != 1:
                raise ValueError(
                    f"mutant {mutation.id} is stale: its text stands {text.count(mutation.old)} times in {file.name}"
                )
            file.write_text(text.replace(mutation.old, mutation.new))
        for name in kept:
            del sys.modules[name]
        sys.path.insert(0, folder)
        importlib.invalidate_caches()
        try:
            yield
        finally:
            sys.path.remove(folder)
            for name in [name for name in sys.modules if name.split(".")[0] == PACKAGE]:
                del sys.modules[name]
            sys.modules.update(kept)


_B0 = "transformer_blocks.0"
MUTATIONS = (
    # ---- rotary embeddings and positions
    Mutation(
        "R01",
        "interleaved pairs where the checkpoint says split",
        "nn/rope.py",
        "    halves = x.reshape(B, T, cos.shape[2], 2, -1)\n",
        "    halves = x.reshape(B, T, cos.shape[2], -1, 2).swapaxes(-1, -2)\n",
        f"{_B0}.attn1.apply_rotary_emb",
    ),
    Mutation(
        "R01b",
        "split pairs where the checkpoint says interleaved",
        "nn/rope.py",
        "    pairs = x.reshape(*x.shape[:-1], -1, 2)\n",
        "    pairs = x.reshape(*x.shape[:-1], 2, -1).swapaxes(-1, -2)\n",
        f"{_B0}.attn1.apply_rotary_emb",
        config="tiny-2.0-interleaved",
    ),
    Mutation(
        "R02",
        "head width for inner width in the frequency grid",
        "transformer.py",
        "config.audio_inner_dim if stream else config.inner_dim,\n",
        "config.audio_inner_dim if stream else config.attention_head_dim,\n",
        "precompute_freqs_cis<dim",
    ),
    Mutation(
        "R03",
        "float32 frequency grid where the checkpoint says float64",
        "transformer.py",
        "generate_freq_grid_np if config.double_precision_rope else",
        "generate_freq_grid_pytorch if config.double_precision_rope else",
        "precompute_freqs_cis<freq_grid_generator",
    ),
    Mutation(
        "R03b",
        "positions averaged and scaled in float64, not float32",
        "nn/rope.py",
        "            indices_grid = (indices_grid[..., 0] + indices_grid[..., 1]) / 2.0\n",
        "            indices_grid = indices_grid.astype(mx.float64).sum(axis=-1) / 2.0\n",
        "precompute_freqs_cis.generate_freqs",
        case="late",
    ),
    Mutation(
        "R05",
        "audio positions rounded to bfloat16",
        "transformer.py",
        "                modality.positions,\n",
        "                modality.positions.astype(mx.bfloat16).astype(mx.float32),\n",
        "precompute_freqs_cis<indices_grid",
        case="late",
    ),
    Mutation(
        "R06",
        "causal offset (i + 1 − 4) · 4 for 4i + 1 − 4",
        "patchifiers.py",
        "mel = np.maximum(mel + np.float32(1) - np.float32(self.audio_latent_downsample_factor), np.float32(0))",
        "mel = np.maximum(first + 1 - 4, 0).astype(np.float32) * 4",
        "audio.bounds.causal.0",
        stage="patchifiers",
        config="any",
        case="patchifiers",
    ),
    Mutation(
        "R07",
        "25 frames a second for the given rate",
        "tools.py",
        "coords[:, 0] / np.float32(self.fps)",
        "coords[:, 0] / np.float32(25)",
        "video.positions.24.causal.float32.positions",
        stage="patchifiers",
        config="any",
        case="states",
    ),
    Mutation(
        "R08",
        "ceil for round in the audio length",
        "types.py",
        "round(duration * per_second)",
        "int(-(-duration * per_second // 1))",
        "audio_shape.121.24",
        stage="patchifiers",
        config="any",
        case="shapes",
    ),
    Mutation(
        "V03",
        "channel and patch factors swapped in patchify",
        "patchifiers.py",
        ".transpose(0, 2, 3, 5, 1, 4, 6)\n",
        ".transpose(0, 2, 3, 5, 1, 6, 4)\n",
        "video.patchify.2",
        stage="patchifiers",
        config="any",
        case="patchifiers",
    ),
    # ---- timesteps and modulation
    Mutation(
        "D01",
        "av_ca_timestep_scale_multiplier 1 for 1000",
        "transformer.py",
        "factor = config.av_ca_timestep_scale_multiplier /",
        "factor = 1 /",
        "av_ca_a2v_gate_adaln_single<timestep",
    ),
    Mutation(
        "D02",
        "sigma rounded to bfloat16 before · 1000",
        "transformer.py",
        "        scaled = timestep * self.config.timestep_scale_multiplier\n",
        "        scaled = timestep.astype(mx.bfloat16).astype(mx.float32) * self.config.timestep_scale_multiplier\n",
        "adaln_single<timestep",
        case="schedule",
    ),
    Mutation(
        "D04",
        "sinusoid with the sine first",
        "nn/embedding.py",
        "mx.concatenate([mx.cos(angles), mx.sin(angles)], axis=-1)",
        "mx.concatenate([mx.sin(angles), mx.cos(angles)], axis=-1)",
        "adaln_single.emb.time_proj",
    ),
    Mutation(
        "D05",
        "audio-video attention timed by the stream's own sigma",
        "transformer.py",
        "cross_timestep = cross_modality.sigma.reshape",
        "cross_timestep = modality.sigma.reshape",
        "_prepare_cross_attention_timestep<timestep",
    ),
    Mutation(
        "D10",
        "shift and scale swapped",
        "transformer.py",
        "        shift, scale, gate = self.get_ada_values(table, x.shape[0], args.timesteps, slice(0, 3))\n",
        "        scale, shift, gate = self.get_ada_values(table, x.shape[0], args.timesteps, slice(0, 3))\n",
        f"{_B0}.attn1<x",
    ),
    Mutation(
        "D10b",
        "shift before scale in the audio-video tables",
        "transformer.py",
        "        scale, shift = self.get_ada_values(scale_shift_table[:n]",
        "        shift, scale = self.get_ada_values(scale_shift_table[:n]",
        f"{_B0}.get_av_ca_ada_values.0",
    ),
    Mutation(
        "D10c",
        "the output's shift and scale swapped",
        "transformer.py",
        "        shift, scale = rows[:, :, 0], rows[:, :, 1]\n",
        "        scale, shift = rows[:, :, 0], rows[:, :, 1]\n",
        "proj_out<x",
    ),
    Mutation(
        "D11",
        "prompt AdaLN missing",
        "transformer.py",
        "context=modulate(context, scale_kv, shift_kv)",
        "context=context",
        f"{_B0}.attn2<context",
    ),
    Mutation(
        "D11b",
        "one row of an AdaLN table wrong in one block",
        "weights.py",
        "    module.load_weights(weights, strict=True)\n",
        "    module.load_weights(weights, strict=True)\n"
        "    table = module.transformer_blocks[1].scale_shift_table\n"
        "    table[4] = table[3]\n",
        "transformer_blocks.1.get_ada_values<scale_shift_table",
    ),
    Mutation(
        "D14",
        "velocity returned for x0",
        "transformer.py",
        "    return (sample.astype(calc_dtype) - velocity.astype(calc_dtype) * sigma).astype(sample.dtype)\n",
        "    return velocity\n",
        "to_denoised",
    ),
    Mutation(
        "D15",
        "x0 by the step's sigma, not by each token's",
        "transformer.py",
        "to_denoised(video.latent, vx, video.timesteps)",
        "to_denoised(video.latent, vx, video.sigma[:, None, None])",
        "to_denoised<sigma",
    ),
    # ---- attention
    Mutation(
        "M02",
        "self-attention mask ignored",
        "transformer.py",
        "            mask=args.self_attention_mask,\n",
        "",
        f"{_B0}.attn1<mask",
        case="masks",
    ),
    Mutation(
        "M03",
        "text mask ignored",
        "transformer.py",
        "context=args.context, mask=args.context_mask)",
        "context=args.context)",
        f"{_B0}.attn2<mask",
        case="masks",
        config="tiny-2.0",
    ),
    Mutation(
        "M04",
        "mask strengths used as biases, without the logarithm",
        "transformer.py",
        "    bias = mx.log(mx.maximum(attention_mask, smallest)).astype(x_dtype)\n",
        "    bias = (attention_mask - 1).astype(x_dtype)\n",
        "_prepare_self_attention_mask",
        case="masks",
    ),
    Mutation(
        "G01",
        "head gates without the factor 2",
        "nn/attention.py",
        "gates = 2.0 * mx.sigmoid",
        "gates = mx.sigmoid",
        f"{_B0}.attn1.to_out.0<x",
    ),
    Mutation(
        "G02",
        "attention scaled by the inner width, not the head's",
        "nn/attention.py",
        "scale=(inner // heads) ** -0.5",
        "scale=inner**-0.5",
        f"{_B0}.attn1.attention_function",
    ),
    Mutation(
        "L14",
        "guidance perturbation ignored for part of a batch",
        "transformer.py",
        "perturbation_mask=perturbations.mask_like(skip, self.idx, x) if some_perturbed else None",
        "perturbation_mask=None",
        f"{_B0}.attn1<perturbation_mask",
        case="stg",
    ),
    Mutation(
        "S22",
        "modality guidance cuts one direction only",
        "transformer.py",
        "            skip = PerturbationType.SKIP_V2A_CROSS_ATTN\n",
        "            skip = PerturbationType.SKIP_A2V_CROSS_ATTN\n",
        f"{_B0}.rms_norm",
        case="cut",
    ),
    Mutation(
        "K20",
        "video to audio sees the video that audio has already changed",
        "transformer.py",
        '            ax = attend(ax, "audio", "video"',
        '            normed["video"] = rms_norm(vx, eps=self.norm_eps)\n            ax = attend(ax, "audio", "video"',
        f"{_B0}.video_to_audio_attn<context",
    ),
    # ---- activations and norms
    Mutation(
        "T16",
        "exact GELU for the tanh approximation",
        "nn/activation.py",
        "    y = 0.5 * y * (1 + mx.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y * y * y)))\n",
        "    y = 0.5 * y * (1 + mx.erf(y / math.sqrt(2)))\n",
        f"{_B0}.ff.net.0",
    ),
    Mutation(
        "T16b",
        "exact GELU in the caption projection",
        "nn/embedding.py",
        "        self.act_1 = GELUTanh()\n",
        "        self.act_1 = nn.GELU()\n",
        "caption_projection.act_1",
        config="tiny-2.0",
    ),
    Mutation(
        "N01",
        "eps 1e-5 for 1e-6 in the blocks' norms",
        "transformer.py",
        "        self.norm_eps = config.norm_eps\n",
        "        self.norm_eps = 1e-5\n",
        f"{_B0}.rms_norm<eps",
    ),
    Mutation(
        "N02",
        "eps 1e-5 for 1e-6 in the q norms",
        "nn/attention.py",
        "self.q_norm = nn.RMSNorm(inner_dim, eps=norm_eps)",
        "self.q_norm = nn.RMSNorm(inner_dim, eps=1e-5)",
        f"{_B0}.attn1.q_norm",
    ),
    Mutation(
        "N03",
        "eps 1e-5 for 1e-6 in the output norm",
        "transformer.py",
        "nn.LayerNorm(dim, eps=config.norm_eps, affine=False)",
        "nn.LayerNorm(dim, eps=1e-5, affine=False)",
        "norm_out",
    ),
    # ---- dtypes: visible in half precision only
    Mutation(
        "P01",
        "float32 rotary tables promote the activations",
        "nn/rope.py",
        "    return cos.astype(out_dtype), sin.astype(out_dtype)\n",
        "    return cos, sin\n",
        "precompute_freqs_cis",
        dtype="bfloat16",
    ),
)
