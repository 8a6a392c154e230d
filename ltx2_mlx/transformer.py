"""The joint audio-video diffusion transformer: velocity from noisy latents, text and positions.

Parameter and module paths are those of the checkpoint below ``model.diffusion_model.``; classes carry the names of
``ltx_core.model.transformer``. Video is stream "", audio is stream "audio_".
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from .config import TransformerConfig
from .diffusion.perturbations import BatchedPerturbationConfig, PerturbationType
from .errors import InputError
from .nn.attention import Attention, FeedForward
from .nn.embedding import AdaLayerNormSingle, PixArtAlphaTextProjection
from .nn.fused import fused
from .nn.norm import rms_norm
from .nn.rope import generate_freq_grid_np, generate_freq_grid_pytorch, precompute_freqs_cis
from .types import Modality

Tables = tuple[mx.array, mx.array]


@dataclass(frozen=True)
class TransformerArgs:
    """What the blocks see of one stream: ``x`` changes from block to block, the rest stays.

    x: ``(B, T, D)``. context: ``(B, S, D)``. timesteps: ``(B, T|1, rows·D)`` modulation rows.
    embedded_timestep: ``(B, T|1, D)``. positional_embeddings: cosine and sine tables.
    cross_*: the same for audio-video attention, None when the other stream is absent.
    prompt_timestep: ``(B, 1, 2·D)`` rows for the text, 2.3 only. self_attention_mask: ``(B, 1, T, T)`` additive bias.
    """

    x: mx.array
    context: mx.array
    context_mask: mx.array | None
    timesteps: mx.array
    embedded_timestep: mx.array
    positional_embeddings: Tables
    cross_positional_embeddings: Tables | None
    cross_scale_shift_timestep: mx.array | None
    cross_gate_timestep: mx.array | None
    enabled: bool
    prompt_timestep: mx.array | None = None
    self_attention_mask: mx.array | None = None


@fused
def modulate(x: mx.array, scale: mx.array, shift: mx.array) -> mx.array:
    return x * (1 + scale) + shift


@fused
def add_gated(x: mx.array, y: mx.array, gate: mx.array) -> mx.array:
    return x + y * gate


def apply_cross_attention_adaln(
    x: mx.array,
    context: mx.array,
    attn: Attention,
    q_shift: mx.array,
    q_scale: mx.array,
    q_gate: mx.array,
    prompt_scale_shift_table: mx.array,
    prompt_timestep: mx.array,
    context_mask: mx.array | None = None,
    norm_eps: float = 1e-6,
) -> mx.array:
    """Text attention of 2.3: queries, text and output are all modulated. ``(B, T, D)`` → the same shape."""
    B, T, _ = prompt_timestep.shape
    rows = prompt_scale_shift_table[None, None].astype(x.dtype) + prompt_timestep.reshape(B, T, 2, -1)
    shift_kv, scale_kv = rows[:, :, 0], rows[:, :, 1]
    attn_input = modulate(rms_norm(x, eps=norm_eps), q_scale, q_shift)
    return attn(attn_input, context=modulate(context, scale_kv, shift_kv), mask=context_mask) * q_gate


class BasicAVTransformerBlock(nn.Module):
    """Self-attention, text attention, audio-video attention both ways from one snapshot, feed-forward."""

    def __init__(self, idx: int, config: TransformerConfig, video: bool, audio: bool):
        super().__init__()
        self.idx = idx
        self.norm_eps = config.norm_eps
        self.cross_attention_adaln = config.cross_attention_adaln
        dim, audio_dim = config.inner_dim, config.audio_inner_dim

        def attention(query_dim: int, context_dim: int | None, heads: int, dim_head: int) -> Attention:
            gated = config.apply_gated_attention
            return Attention(query_dim, context_dim, heads, dim_head, config.norm_eps, config.rope_type, gated)

        if video:
            heads = config.num_attention_heads, config.attention_head_dim
            self.attn1 = attention(dim, None, *heads)
            self.attn2 = attention(dim, config.cross_attention_dim, *heads)
            self.ff = FeedForward(dim, dim)
            self.scale_shift_table = mx.zeros((config.adaln_rows, dim))
        if audio:
            heads = config.audio_num_attention_heads, config.audio_attention_head_dim
            self.audio_attn1 = attention(audio_dim, None, *heads)
            self.audio_attn2 = attention(audio_dim, config.audio_cross_attention_dim, *heads)
            self.audio_ff = FeedForward(audio_dim, audio_dim)
            self.audio_scale_shift_table = mx.zeros((config.adaln_rows, audio_dim))
        if video and audio:  # both ways at the audio's width
            self.audio_to_video_attn = attention(dim, audio_dim, *heads)
            self.video_to_audio_attn = attention(audio_dim, dim, *heads)
            self.scale_shift_table_a2v_ca_audio = mx.zeros((5, audio_dim))
            self.scale_shift_table_a2v_ca_video = mx.zeros((5, dim))
        if config.cross_attention_adaln and video:
            self.prompt_scale_shift_table = mx.zeros((2, dim))
        if config.cross_attention_adaln and audio:
            self.audio_prompt_scale_shift_table = mx.zeros((2, audio_dim))

    def get_ada_values(
        self, scale_shift_table: mx.array, batch_size: int, timestep: mx.array, indices: slice
    ) -> tuple[mx.array, ...]:
        """Rows ``indices`` of table ``(rows, D)`` + timestep ``(B, T, rows·D)``, each ``(B, T, D)``."""
        rows = timestep.reshape(batch_size, timestep.shape[1], scale_shift_table.shape[0], -1)[:, :, indices]
        values = scale_shift_table[indices][None, None].astype(timestep.dtype) + rows
        return tuple(values[:, :, i] for i in range(values.shape[2]))

    def get_av_ca_ada_values(
        self,
        scale_shift_table: mx.array,
        batch_size: int,
        scale_shift_timestep: mx.array,
        gate_timestep: mx.array,
        scale_shift_indices: slice,
        num_scale_shift_values: int = 4,
    ) -> tuple[mx.array, mx.array, mx.array]:
        """Scale, shift and gate of audio-video attention. These tables hold scale before shift, the others after."""
        n = num_scale_shift_values
        scale, shift = self.get_ada_values(scale_shift_table[:n], batch_size, scale_shift_timestep, scale_shift_indices)
        (gate,) = self.get_ada_values(scale_shift_table[n:], batch_size, gate_timestep, slice(None))
        return scale, shift, gate

    def __call__(
        self,
        video: TransformerArgs | None,
        audio: TransformerArgs | None,
        perturbations: BatchedPerturbationConfig | None = None,
    ) -> tuple[TransformerArgs | None, TransformerArgs | None]:
        """The streams with their ``x`` moved on by one block."""
        if video is None and audio is None:
            raise InputError("a transformer block needs video, audio, or both")
        if perturbations is None:
            perturbations = BatchedPerturbationConfig.empty((video or audio).x.shape[0])
        vx = video.x if video is not None else None
        ax = audio.x if audio is not None else None
        run_vx = video is not None and video.enabled and vx.size > 0
        run_ax = audio is not None and audio.enabled and ax.size > 0
        run_a2v = run_vx and audio is not None and ax.size > 0
        run_v2a = run_ax and video is not None and vx.size > 0

        if run_vx:
            vx = self._self_attention(vx, video, "", perturbations, PerturbationType.SKIP_VIDEO_SELF_ATTN)
            vx = vx + self._apply_text_cross_attention(vx, video, "")
        if run_ax:
            ax = self._self_attention(ax, audio, "audio_", perturbations, PerturbationType.SKIP_AUDIO_SELF_ATTN)
            ax = ax + self._apply_text_cross_attention(ax, audio, "audio_")
        if run_a2v or run_v2a:
            vx, ax = self._audio_video_attention(vx, ax, video, audio, perturbations, run_a2v, run_v2a)
        if run_vx:
            vx = self._feed_forward(vx, video, "")
        if run_ax:
            ax = self._feed_forward(ax, audio, "audio_")
        return (
            replace(video, x=vx) if video is not None else None,
            replace(audio, x=ax) if audio is not None else None,
        )

    def _self_attention(
        self,
        x: mx.array,
        args: TransformerArgs,
        stream: str,
        perturbations: BatchedPerturbationConfig,
        skip: PerturbationType,
    ) -> mx.array:
        table = self[f"{stream}scale_shift_table"]
        shift, scale, gate = self.get_ada_values(table, x.shape[0], args.timesteps, slice(0, 3))
        normed = modulate(rms_norm(x, eps=self.norm_eps), scale, shift)
        all_perturbed = perturbations.all_in_batch(skip, self.idx)
        some_perturbed = perturbations.any_in_batch(skip, self.idx) and not all_perturbed
        out = self[f"{stream}attn1"](
            normed,
            pe=args.positional_embeddings,
            mask=args.self_attention_mask,
            perturbation_mask=perturbations.mask_like(skip, self.idx, x) if some_perturbed else None,
            all_perturbed=all_perturbed,
        )
        return add_gated(x, out, gate)

    def _apply_text_cross_attention(self, x: mx.array, args: TransformerArgs, stream: str) -> mx.array:
        attn = self[f"{stream}attn2"]
        if not self.cross_attention_adaln:
            return attn(rms_norm(x, eps=self.norm_eps), context=args.context, mask=args.context_mask)
        table = self[f"{stream}scale_shift_table"]
        shift_q, scale_q, gate = self.get_ada_values(table, x.shape[0], args.timesteps, slice(6, 9))
        prompt_table = self[f"{stream}prompt_scale_shift_table"]
        return apply_cross_attention_adaln(
            x,
            args.context,
            attn,
            shift_q,
            scale_q,
            gate,
            prompt_table,
            args.prompt_timestep,
            args.context_mask,
            self.norm_eps,
        )

    def _audio_video_attention(
        self,
        vx: mx.array,
        ax: mx.array,
        video: TransformerArgs,
        audio: TransformerArgs,
        perturbations: BatchedPerturbationConfig,
        run_a2v: bool,
        run_v2a: bool,
    ) -> tuple[mx.array, mx.array]:
        normed = {"video": rms_norm(vx, eps=self.norm_eps), "audio": rms_norm(ax, eps=self.norm_eps)}
        args = {"video": video, "audio": audio}

        def scaled(stream: str, rows: slice) -> tuple[mx.array, mx.array]:
            table = self[f"scale_shift_table_a2v_ca_{stream}"]
            x, a = normed[stream], args[stream]
            scale, shift, gate = self.get_av_ca_ada_values(
                table, x.shape[0], a.cross_scale_shift_timestep, a.cross_gate_timestep, rows
            )
            return modulate(x, scale, shift), gate

        def attend(x: mx.array, to: str, source: str, rows: slice, attn: Attention, skip: PerturbationType) -> mx.array:
            queries, gate = scaled(to, rows)
            keys, _ = scaled(source, rows)
            out = attn(
                queries,
                context=keys,
                pe=args[to].cross_positional_embeddings,
                k_pe=args[source].cross_positional_embeddings,
            )
            if perturbations.any_in_batch(skip, self.idx):
                out = out * perturbations.mask_like(skip, self.idx, x)
            return add_gated(x, out, gate)

        if run_a2v and not perturbations.all_in_batch(PerturbationType.SKIP_A2V_CROSS_ATTN, self.idx):
            skip = PerturbationType.SKIP_A2V_CROSS_ATTN
            vx = attend(vx, "video", "audio", slice(0, 2), self.audio_to_video_attn, skip)
        if run_v2a and not perturbations.all_in_batch(PerturbationType.SKIP_V2A_CROSS_ATTN, self.idx):
            skip = PerturbationType.SKIP_V2A_CROSS_ATTN
            ax = attend(ax, "audio", "video", slice(2, 4), self.video_to_audio_attn, skip)
        return vx, ax

    def _feed_forward(self, x: mx.array, args: TransformerArgs, stream: str) -> mx.array:
        table = self[f"{stream}scale_shift_table"]
        shift, scale, gate = self.get_ada_values(table, x.shape[0], args.timesteps, slice(3, 6))
        return add_gated(x, self[f"{stream}ff"](modulate(rms_norm(x, eps=self.norm_eps), scale, shift)), gate)


class LTXModel(nn.Module):
    """Predicts the velocity of video and audio latents. Source: ``ltx_core.model.transformer.model.LTXModel``."""

    def __init__(self, config: TransformerConfig, video: bool = True, audio: bool | None = None):
        super().__init__()
        self.config = config
        self.video_enabled = video
        self.audio_enabled = config.use_audio_video_cross_attention if audio is None else audio
        if self.video_enabled:
            self._init_stream("", config.inner_dim, config.in_channels, config.out_channels)
        if self.audio_enabled:
            self._init_stream("audio_", config.audio_inner_dim, config.audio_in_channels, config.audio_out_channels)
        if self.video_enabled and self.audio_enabled:
            self.av_ca_video_scale_shift_adaln_single = AdaLayerNormSingle(config.inner_dim, 4)
            self.av_ca_audio_scale_shift_adaln_single = AdaLayerNormSingle(config.audio_inner_dim, 4)
            self.av_ca_a2v_gate_adaln_single = AdaLayerNormSingle(config.inner_dim, 1)
            self.av_ca_v2a_gate_adaln_single = AdaLayerNormSingle(config.audio_inner_dim, 1)
        self.transformer_blocks = [
            BasicAVTransformerBlock(i, config, self.video_enabled, self.audio_enabled) for i in range(config.num_layers)
        ]

    def _init_stream(self, stream: str, dim: int, in_channels: int, out_channels: int) -> None:
        config = self.config
        self[f"{stream}patchify_proj"] = nn.Linear(in_channels, dim)
        if not config.caption_proj_before_connector:
            self[f"{stream}caption_projection"] = PixArtAlphaTextProjection(config.caption_channels, dim)
        self[f"{stream}adaln_single"] = AdaLayerNormSingle(dim, config.adaln_rows)
        if config.cross_attention_adaln:
            self[f"{stream}prompt_adaln_single"] = AdaLayerNormSingle(dim, 2)
        self[f"{stream}scale_shift_table"] = mx.zeros((2, dim))
        self[f"{stream}norm_out"] = nn.LayerNorm(dim, eps=config.norm_eps, affine=False)
        self[f"{stream}proj_out"] = nn.Linear(dim, out_channels)

    def __call__(
        self,
        video: Modality | None,
        audio: Modality | None,
        perturbations: BatchedPerturbationConfig | None = None,
    ) -> tuple[mx.array | None, mx.array | None]:
        """Velocities ``(B, T, out_channels)`` of video and audio, None for a stream that is absent."""
        for name, modality, enabled in (("video", video, self.video_enabled), ("audio", audio, self.audio_enabled)):
            if modality is not None and not enabled:
                raise InputError(f"this checkpoint has no {name} stream, and {name} was given")
        video_args = self.prepare(video, audio, "") if video is not None else None
        audio_args = self.prepare(audio, video, "audio_") if audio is not None else None
        for block in self.transformer_blocks:
            video_args, audio_args = block(video=video_args, audio=audio_args, perturbations=perturbations)
        return (
            self._output(video_args, "") if video_args is not None else None,
            self._output(audio_args, "audio_") if audio_args is not None else None,
        )

    # ---- inputs of the blocks -------------------------------------------------------------------------------------

    def prepare(self, modality: Modality, cross_modality: Modality | None, stream: str) -> TransformerArgs:
        """Source: ``TransformerArgsPreprocessor`` and ``MultiModalTransformerArgsPreprocessor``."""
        config, dtype = self.config, modality.latent.dtype
        _check_modality(modality, cross_modality, stream)
        x = self[f"{stream}patchify_proj"](modality.latent)
        B = x.shape[0]
        timesteps, embedded = self._prepare_timestep(modality.timesteps, self[f"{stream}adaln_single"], B, dtype)
        prompt_timestep = None
        if config.cross_attention_adaln:
            prompt_adaln = self[f"{stream}prompt_adaln_single"]
            prompt_timestep, _ = self._prepare_timestep(modality.sigma, prompt_adaln, B, dtype)
        args = TransformerArgs(
            x=x,
            context=self._prepare_context(modality.context, x, stream),
            context_mask=prepare_attention_mask(modality.context_mask, dtype),
            timesteps=timesteps,
            embedded_timestep=embedded,
            positional_embeddings=self._prepare_positional_embeddings(
                modality.positions,
                config.audio_inner_dim if stream else config.inner_dim,
                config.audio_positional_embedding_max_pos if stream else config.positional_embedding_max_pos,
                dtype,
            ),
            cross_positional_embeddings=None,
            cross_scale_shift_timestep=None,
            cross_gate_timestep=None,
            enabled=modality.enabled,
            prompt_timestep=prompt_timestep,
            self_attention_mask=prepare_self_attention_mask(modality.attention_mask, dtype),
        )
        if cross_modality is None:
            return args
        # Audio-video attention is timed by the other stream's sigma, one value a sample (ltx-core 1.0.0).
        cross_timestep = cross_modality.sigma.reshape(B, *[1] * (modality.timesteps.ndim - 1))
        scale_shift, gate = self._prepare_cross_attention_timestep(cross_timestep, B, dtype, stream)
        return replace(
            args,
            cross_positional_embeddings=self._prepare_positional_embeddings(
                modality.positions[:, 0:1], config.audio_cross_attention_dim, (config.cross_pe_max_pos,), dtype
            ),
            cross_scale_shift_timestep=scale_shift,
            cross_gate_timestep=gate,
        )

    def _prepare_timestep(
        self, timestep: mx.array, adaln: AdaLayerNormSingle, batch_size: int, hidden_dtype: mx.Dtype
    ) -> tuple[mx.array, mx.array]:
        # sigma stays float32 until the sinusoid: in bfloat16, 0.99375 · 1000 is off by 2 (tap: adaln_single<timestep)
        scaled = timestep * self.config.timestep_scale_multiplier
        rows, embedded = adaln(scaled.flatten(), hidden_dtype=hidden_dtype)
        return rows.reshape(batch_size, -1, rows.shape[-1]), embedded.reshape(batch_size, -1, embedded.shape[-1])

    def _prepare_cross_attention_timestep(
        self, timestep: mx.array, batch_size: int, hidden_dtype: mx.Dtype, stream: str
    ) -> tuple[mx.array, mx.array]:
        config = self.config
        scale_shift_adaln = self[f"av_ca_{'audio' if stream else 'video'}_scale_shift_adaln_single"]
        gate_adaln = self[f"av_ca_{'v2a' if stream else 'a2v'}_gate_adaln_single"]
        scaled = (timestep * config.timestep_scale_multiplier).flatten()
        factor = config.av_ca_timestep_scale_multiplier / config.timestep_scale_multiplier
        rows, _ = scale_shift_adaln(scaled, hidden_dtype=hidden_dtype)
        gate, _ = gate_adaln(scaled * factor, hidden_dtype=hidden_dtype)
        return rows.reshape(batch_size, -1, rows.shape[-1]), gate.reshape(batch_size, -1, gate.shape[-1])

    def _prepare_context(self, context: mx.array, x: mx.array, stream: str) -> mx.array:
        if not self.config.caption_proj_before_connector:
            context = self[f"{stream}caption_projection"](context)
        return context.reshape(x.shape[0], -1, x.shape[-1])

    def _prepare_positional_embeddings(
        self, positions: mx.array, inner_dim: int, max_pos: tuple[int, ...], x_dtype: mx.Dtype
    ) -> Tables:
        config = self.config
        host = np.array(positions.astype(mx.float32))  # exact: positions are float32 or shorter
        return _rope_tables(
            _Positions(host.tobytes(), host.shape, positions.dtype), inner_dim, max_pos, x_dtype, config
        )

    # ---- output of the blocks -------------------------------------------------------------------------------------

    def _output(self, args: TransformerArgs, stream: str) -> mx.array:
        parts = (self[f"{stream}{name}"] for name in ("scale_shift_table", "norm_out", "proj_out"))
        return self._process_output(*parts, args.x, args.embedded_timestep)

    def _process_output(
        self,
        scale_shift_table: mx.array,
        norm_out: nn.LayerNorm,
        proj_out: nn.Linear,
        x: mx.array,
        embedded_timestep: mx.array,
    ) -> mx.array:
        rows = scale_shift_table[None, None].astype(x.dtype) + embedded_timestep[:, :, None]
        shift, scale = rows[:, :, 0], rows[:, :, 1]
        return proj_out(modulate(norm_out(x), scale, shift))


class _Positions(NamedTuple):
    """Positions as a key: the values as float32, their shape, and the dtype that they are rounded to."""

    values: bytes
    shape: tuple[int, ...]
    dtype: mx.Dtype


@functools.lru_cache(maxsize=4)  # both streams, self and cross: all that the steps of one stage need
def _rope_tables(
    positions: _Positions, inner_dim: int, max_pos: tuple[int, ...], x_dtype: mx.Dtype, config: TransformerConfig
) -> Tables:
    host = np.frombuffer(positions.values, dtype=np.float32).reshape(positions.shape)
    return precompute_freqs_cis(
        mx.array(host).astype(positions.dtype),
        dim=inner_dim,
        out_dtype=x_dtype,
        theta=config.positional_embedding_theta,
        max_pos=list(max_pos),
        use_middle_indices_grid=True,
        num_attention_heads=config.num_attention_heads,
        rope_type=config.rope_type,
        freq_grid_generator=generate_freq_grid_np if config.double_precision_rope else generate_freq_grid_pytorch,
    )


def _check_modality(modality: Modality, cross_modality: Modality | None, stream: str) -> None:
    name, axes = ("audio", 1) if stream else ("video", 3)
    B, T, _ = modality.latent.shape
    if modality.positions.shape != (B, axes, T, 2):
        raise InputError(f"{name} positions are {modality.positions.shape}, expected {(B, axes, T, 2)}")
    if modality.timesteps.shape[0] != B or modality.timesteps.size not in (B, B * T):
        raise InputError(f"{name} timesteps are {modality.timesteps.shape}, expected {(B, T, 1)} or {(B, 1, 1)}")
    if cross_modality is not None and cross_modality.sigma.shape != (B,):
        raise InputError(f"sigma of the stream beside {name} is {cross_modality.sigma.shape}, expected {(B,)}")


def prepare_attention_mask(attention_mask: mx.array | None, x_dtype: mx.Dtype) -> mx.array | None:
    """``(B, S)`` integers, 1 to attend → ``(B, 1, 1, S)`` bias, 0 or the dtype's lowest value. Floats pass through."""
    if attention_mask is None or mx.issubdtype(attention_mask.dtype, mx.floating):
        return attention_mask
    bias = (attention_mask - 1).astype(x_dtype).reshape(attention_mask.shape[0], 1, -1, attention_mask.shape[-1])
    return bias * mx.finfo(x_dtype).max


def prepare_self_attention_mask(attention_mask: mx.array | None, x_dtype: mx.Dtype) -> mx.array | None:
    """Strengths ``(B, T, T)`` in [0, 1] → bias ``(B, 1, T, T)``: their logarithm, the dtype's lowest value for 0."""
    if attention_mask is None:
        return None
    info = mx.finfo(x_dtype)
    smallest = {mx.float32: 2.0**-126, mx.bfloat16: 2.0**-126, mx.float16: 2.0**-14}[x_dtype]  # smallest normal number
    bias = mx.log(mx.maximum(attention_mask, smallest)).astype(x_dtype)
    return mx.where(attention_mask > 0, bias, mx.array(info.min, dtype=x_dtype))[:, None]


def to_denoised(
    sample: mx.array, velocity: mx.array, sigma: mx.array | float, calc_dtype: mx.Dtype = mx.float32
) -> mx.array:
    """x0 = sample − velocity · sigma in ``calc_dtype``, in the dtype of ``sample``. Source: ``ltx_core.utils``."""
    sigma = sigma.astype(calc_dtype) if isinstance(sigma, mx.array) else sigma
    return (sample.astype(calc_dtype) - velocity.astype(calc_dtype) * sigma).astype(sample.dtype)


class X0Model(nn.Module):
    """The velocity model read as a denoiser: each token by its own timestep."""

    def __init__(self, velocity_model: LTXModel):
        super().__init__()
        self.velocity_model = velocity_model

    def __call__(
        self,
        video: Modality | None,
        audio: Modality | None,
        perturbations: BatchedPerturbationConfig | None = None,
    ) -> tuple[mx.array | None, mx.array | None]:
        """Denoised latents ``(B, T, C)`` of video and audio, None for a stream that is absent."""
        vx, ax = self.velocity_model(video, audio, perturbations)
        return (
            to_denoised(video.latent, vx, video.timesteps) if vx is not None else None,
            to_denoised(audio.latent, ax, audio.timesteps) if ax is not None else None,
        )
