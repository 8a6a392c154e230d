"""The joint audio-video diffusion transformer: velocity from noisy latents, text and positions.

Parameter and module paths are those of the checkpoint below ``model.diffusion_model.``; classes carry the names of
``ltx_core.model.transformer``.
"""

from __future__ import annotations

import functools
from collections import deque
from dataclasses import replace
from typing import Literal, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from .block import BasicAVTransformerBlock, Tables, TransformerArgs, attach, attached
from .config import StreamConfig, TransformerConfig
from .diffusion.perturbations import BatchedPerturbationConfig
from .errors import InputError
from .nn import fused
from .nn.embedding import AdaLayerNormSingle, PixArtAlphaTextProjection
from .nn.linear import Linear
from .nn.modulation import modulate
from .nn.module import Module
from .nn.rope import generate_freq_grid_np, generate_freq_grid_pytorch, precompute_freqs_cis
from .types import Modality

AudioVideoTiming = Literal["1.0.0", "upstream"]


class ModelLayers(NamedTuple):
    """One stream's layers before and after the blocks. Each is an attribute of the model under the stream's prefix.

    keyframes_abs_pos_embedding: ``(1, D)``, video of 2.5 only. caption_projection: 2.0 only. prompt_adaln_single: from
    2.3 on. scale_shift_table: ``(2, D)`` of the output.
    """

    patchify_proj: Linear
    keyframes_abs_pos_embedding: mx.array | None
    caption_projection: PixArtAlphaTextProjection | None
    adaln_single: AdaLayerNormSingle
    prompt_adaln_single: AdaLayerNormSingle | None
    scale_shift_table: mx.array
    norm_out: nn.LayerNorm
    proj_out: Linear


# A block on a GPU holds about as much memory as so many copies of its ``x`` (measured, until it is computed), and the
# blocks that are being computed together no more than IN_FLIGHT bytes, or else there is one.
COPIES, IN_FLIGHT = 26, 3 * 10**9


class _Started:
    """Blocks that a GPU computes while the host prepares the next. On a CPU all are computed when the result is used:
    what follows changes no number."""

    def __init__(self) -> None:
        self.blocks: deque[tuple[mx.array, ...]] = deque()

    def add(self, *streams: mx.array) -> None:
        """Start a block, given its results; first wait for those before it that would hold too much memory."""
        if not fused.pays():
            return
        most = IN_FLIGHT // (COPIES * sum(x.nbytes for x in streams))
        while self.blocks and len(self.blocks) >= most:
            mx.eval(*self.blocks.popleft())
        mx.async_eval(*streams)  # type: ignore[no-untyped-call]
        self.blocks.append(streams)


class LTXModel(Module):
    """Predicts the velocity of video and audio latents. Source: ``ltx_core.model.transformer.model.LTXModel``.

    audio_video_timing: "1.0.0" times the scale, shift and gate of audio-video attention by the other stream's sigma;
    "upstream" times scale and shift by the stream's own timesteps, token by token. By default it is the rule that the
    checkpoint's version was released with.
    """

    repeated = ("transformer_blocks",)

    def __init__(self, config: TransformerConfig, video: bool = True, audio: bool | None = None):
        super().__init__()
        self.config = config
        self.audio_video_timing: AudioVideoTiming = "upstream" if config.use_keyframes_abs_pos_embedding else "1.0.0"
        self.video_enabled = video
        self.audio_enabled = config.use_audio_video_cross_attention if audio is None else audio
        if self.video_enabled:
            self._init_stream(config.video)
        if self.audio_enabled:
            self._init_stream(config.audio)
        if self.video_enabled and self.audio_enabled:
            dim, audio_dim = config.video.inner_dim, config.audio.inner_dim
            self.av_ca_video_scale_shift_adaln_single = AdaLayerNormSingle(dim, 4)
            self.av_ca_audio_scale_shift_adaln_single = AdaLayerNormSingle(audio_dim, 4)
            self.av_ca_a2v_gate_adaln_single = AdaLayerNormSingle(dim, 1)
            self.av_ca_v2a_gate_adaln_single = AdaLayerNormSingle(audio_dim, 1)
        self.transformer_blocks = [
            BasicAVTransformerBlock(i, config, self.video_enabled, self.audio_enabled) for i in range(config.num_layers)
        ]

    def _init_stream(self, stream: StreamConfig) -> None:
        config, dim = self.config, stream.inner_dim
        projected = not config.caption_proj_before_connector
        layers = ModelLayers(
            patchify_proj=Linear(stream.in_channels, dim),
            keyframes_abs_pos_embedding=mx.zeros((1, dim)) if stream.keyframes else None,
            caption_projection=PixArtAlphaTextProjection(config.caption_channels, dim) if projected else None,
            adaln_single=AdaLayerNormSingle(dim, config.adaln_rows),
            prompt_adaln_single=AdaLayerNormSingle(dim, 2) if config.cross_attention_adaln else None,
            scale_shift_table=mx.zeros((2, dim)),
            norm_out=nn.LayerNorm(dim, eps=config.norm_eps, affine=False),
            proj_out=Linear(dim, stream.out_channels),
        )
        attach(self, stream, layers._asdict())

    def _layers(self, stream: StreamConfig) -> ModelLayers:
        return ModelLayers(*attached(self, stream, ModelLayers._fields))

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
        v, a = self.config.video, self.config.audio
        video_args = self.prepare(video, audio, v) if video is not None else None
        audio_args = self.prepare(audio, video, a) if audio is not None else None
        started = _Started()
        for block in self.transformer_blocks:
            video_args, audio_args = block(video=video_args, audio=audio_args, perturbations=perturbations)
            started.add(*(args.x for args in (video_args, audio_args) if args is not None))
        return (
            self._output(video_args, v) if video_args is not None else None,
            self._output(audio_args, a) if audio_args is not None else None,
        )

    # ---- inputs of the blocks -------------------------------------------------------------------------------------

    def prepare(self, modality: Modality, cross_modality: Modality | None, stream: StreamConfig) -> TransformerArgs:
        """One stream as the blocks take it.

        Source: ``TransformerArgsPreprocessor`` and ``MultiModalTransformerArgsPreprocessor``.
        """
        config, dtype = self.config, modality.latent.dtype
        _check_modality(modality, cross_modality, stream)
        layers = self._layers(stream)
        x = layers.patchify_proj(modality.latent)
        if layers.keyframes_abs_pos_embedding is not None and modality.keyframes_mask is not None:
            x = marked(x, modality.keyframes_mask, layers.keyframes_abs_pos_embedding)
        B = x.shape[0]
        timesteps, embedded = self._prepare_timestep(modality.timesteps, layers.adaln_single, B, dtype)
        prompt_timestep = None
        if layers.prompt_adaln_single is not None:
            prompt_timestep, _ = self._prepare_timestep(modality.sigma, layers.prompt_adaln_single, B, dtype)
        args = TransformerArgs(
            x=x,
            context=self._prepare_context(modality.context, x, stream),
            context_mask=prepare_attention_mask(modality.context_mask, dtype),
            timesteps=timesteps,
            embedded_timestep=embedded,
            positional_embeddings=self._prepare_positional_embeddings(
                modality.positions, stream.inner_dim, stream.max_pos, dtype
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
        # Audio-video attention is timed by the other stream's sigma, one value a sample; upstream only its gate is.
        cross_timestep = cross_modality.sigma.reshape(B, *[1] * (modality.timesteps.ndim - 1))
        own = modality.timesteps if self.audio_video_timing == "upstream" else None
        scale_shift, gate = self._prepare_cross_attention_timestep(cross_timestep, B, dtype, stream, own)
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
        # sigma stays float32 until the sinusoid: in bfloat16, 0.99375 · 1000 is off by 2 (tap: adaln_single:timestep)
        scaled = timestep * self.config.timestep_scale_multiplier
        rows, embedded = adaln(scaled.flatten(), hidden_dtype=hidden_dtype)
        return rows.reshape(batch_size, -1, rows.shape[-1]), embedded.reshape(batch_size, -1, embedded.shape[-1])

    def _prepare_cross_attention_timestep(
        self,
        timestep: mx.array,
        batch_size: int,
        hidden_dtype: mx.Dtype,
        stream: StreamConfig,
        own_timestep: mx.array | None = None,
    ) -> tuple[mx.array, mx.array]:
        """Rows of scale and shift, by ``own_timestep`` where it is given, and of the gate, by ``timestep``."""
        config = self.config
        if stream.name == "video":
            scale_shift_adaln, gate_adaln = self.av_ca_video_scale_shift_adaln_single, self.av_ca_a2v_gate_adaln_single
        else:
            scale_shift_adaln, gate_adaln = self.av_ca_audio_scale_shift_adaln_single, self.av_ca_v2a_gate_adaln_single
        assert config.av_ca_timestep_scale_multiplier is not None  # from_metadata insists on it
        scaled = (timestep * config.timestep_scale_multiplier).flatten()
        factor = config.av_ca_timestep_scale_multiplier / config.timestep_scale_multiplier
        own = scaled if own_timestep is None else (own_timestep * config.timestep_scale_multiplier).flatten()
        rows, _ = scale_shift_adaln(own, hidden_dtype=hidden_dtype)
        gate, _ = gate_adaln(scaled * factor, hidden_dtype=hidden_dtype)
        return rows.reshape(batch_size, -1, rows.shape[-1]), gate.reshape(batch_size, -1, gate.shape[-1])

    def _prepare_context(self, context: mx.array, x: mx.array, stream: StreamConfig) -> mx.array:
        projection = self._layers(stream).caption_projection
        if projection is not None:
            context = projection(context)
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

    def _output(self, args: TransformerArgs, stream: StreamConfig) -> mx.array:
        layers = self._layers(stream)
        return self._process_output(
            layers.scale_shift_table, layers.norm_out, layers.proj_out, args.x, args.embedded_timestep
        )

    def _process_output(
        self,
        scale_shift_table: mx.array,
        norm_out: nn.LayerNorm,
        proj_out: Linear,
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


def _check_modality(modality: Modality, cross_modality: Modality | None, stream: StreamConfig) -> None:
    name, axes = stream.name, stream.axes
    B, T, _ = modality.latent.shape
    if modality.positions.shape != (B, axes, T, 2):
        raise InputError(f"{name} positions are {modality.positions.shape}, expected {(B, axes, T, 2)}")
    if modality.timesteps.shape[0] != B or modality.timesteps.size not in (B, B * T):
        raise InputError(f"{name} timesteps are {modality.timesteps.shape}, expected {(B, T, 1)} or {(B, 1, 1)}")
    if cross_modality is not None and cross_modality.sigma.shape != (B,):
        raise InputError(f"sigma of the stream beside {name} is {cross_modality.sigma.shape}, expected {(B,)}")


def marked(x: mx.array, keyframes_mask: mx.array, embedding: mx.array) -> mx.array:
    """``x`` ``(B, T, D)`` with ``embedding`` ``(1, D)`` added to the tokens whose mask ``(B, T, 1)`` is above 0."""
    if keyframes_mask.shape != (*x.shape[:2], 1):
        raise InputError(f"the keyframes' mask is {keyframes_mask.shape}, expected {(*x.shape[:2], 1)}")
    return x + (keyframes_mask > 0).astype(x.dtype) * embedding.astype(x.dtype)


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


class X0Model(Module):
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
            to_denoised(video.latent, vx, video.timesteps) if video is not None and vx is not None else None,
            to_denoised(audio.latent, ax, audio.timesteps) if audio is not None and ax is not None else None,
        )
