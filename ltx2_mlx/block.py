"""One block of the diffusion transformer: each layer is ``x + gate · layer(mod(norm(x)))``.

Source: ``ltx_core.model.transformer.transformer``. Every call is a pure function of arrays.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeGuard

import mlx.core as mx
import mlx.nn as nn

from .config import StreamConfig, TransformerConfig
from .diffusion.perturbations import BatchedPerturbationConfig, PerturbationType
from .errors import InputError
from .nn import fused
from .nn.attention import Attention, FeedForward
from .nn.modulation import Row, add_gated, gated, modulate, normed_on_cuda, rows_of
from .nn.module import Module
from .nn.norm import on_cuda, rms_norm

Tables = tuple[mx.array, mx.array]


@dataclass(frozen=True)
class TransformerArgs:
    """One stream as the blocks see it: ``x`` changes from block to block, the rest stays.

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


def modulated_norm(x: mx.array, scale: mx.array | Row, shift: mx.array | Row, eps: float) -> mx.array:
    """norm(x) · (1 + scale) + shift."""
    if isinstance(scale, Row) and isinstance(shift, Row) and on_cuda():
        return normed_on_cuda(x, scale, shift, eps)
    return modulate(rms_norm(x, eps=eps), scale, shift)


def apply_cross_attention_adaln(
    x: mx.array,
    context: mx.array,
    attn: Attention,
    q_shift: mx.array | Row,
    q_scale: mx.array | Row,
    q_gate: mx.array | Row,
    prompt_scale_shift_table: mx.array,
    prompt_timestep: mx.array,
    context_mask: mx.array | None = None,
    norm_eps: float = 1e-6,
) -> mx.array:
    """Text attention of 2.3: queries, text and output are all modulated. ``(B, T, D)`` → the same shape."""
    shift_kv, scale_kv = rows_of(prompt_scale_shift_table, prompt_timestep)
    attn_input = modulated_norm(x, q_scale, q_shift, norm_eps)
    return gated(attn(attn_input, context=modulate(context, scale_kv, shift_kv), mask=context_mask), q_gate)


def attach(module: nn.Module, stream: StreamConfig, layers: Mapping[str, nn.Module | mx.array | None]) -> None:
    """Make one stream's layers attributes of ``module``: audio's ``attn1`` is ``audio_attn1``, as in the checkpoint."""
    for name, layer in layers.items():
        if layer is not None:
            module[f"{stream.prefix}{name}"] = layer


def attached(module: nn.Module, stream: StreamConfig, names: Iterable[str]) -> Iterator[Any]:
    """One stream's layers by their names, as they are now; None for one that the checkpoint's version does not have."""
    return (module.get(f"{stream.prefix}{name}") for name in names)


class BlockLayers(NamedTuple):
    """One stream's layers of a block. Each is an attribute of the block under the stream's prefix.

    scale_shift_table: ``(rows, D)``, see ``SELF_ATTENTION``. prompt_scale_shift_table: ``(2, D)``, 2.3 only.
    """

    attn1: Attention
    attn2: Attention
    ff: FeedForward
    scale_shift_table: mx.array
    prompt_scale_shift_table: mx.array | None


class Modulation(NamedTuple):
    """Shift and scale of a layer's input and gate of its output, ``(B, T, D)`` each."""

    shift: mx.array | Row
    scale: mx.array | Row
    gate: mx.array | Row


# Rows of a block's ``scale_shift_table``: shift, scale and gate of each layer.
SELF_ATTENTION, FEED_FORWARD, TEXT_ATTENTION = slice(0, 3), slice(3, 6), slice(6, 9)
# Rows of the audio-video tables: scale and shift each way, and the gate.
AUDIO_TO_VIDEO, VIDEO_TO_AUDIO, CROSS_GATE = slice(0, 2), slice(2, 4), 4


class _CrossStream(NamedTuple):
    """One side of audio-video attention: its normalised ``x`` ``(B, T, D)`` and its table ``(5, D)``."""

    args: TransformerArgs
    normed: mx.array
    table: mx.array


def _present(args: TransformerArgs | None) -> TypeGuard[TransformerArgs]:
    return args is not None and args.x.size > 0


def _runs(args: TransformerArgs | None) -> TypeGuard[TransformerArgs]:
    return _present(args) and args.enabled


class BasicAVTransformerBlock(Module):
    """Self-attention, text attention, audio-video attention both ways from one snapshot, feed-forward."""

    def __init__(self, idx: int, config: TransformerConfig, video: bool, audio: bool):
        super().__init__()
        self.idx = idx
        self.config = config
        self.norm_eps = config.norm_eps
        if video:
            self._init_stream(config.video)
        if audio:
            self._init_stream(config.audio)
        if video and audio:
            dim, audio_dim = config.video.inner_dim, config.audio.inner_dim
            self.audio_to_video_attn = self._attention(dim, audio_dim, config.audio)  # both ways at audio's width
            self.video_to_audio_attn = self._attention(audio_dim, dim, config.audio)
            self.scale_shift_table_a2v_ca_audio = mx.zeros((5, audio_dim))
            self.scale_shift_table_a2v_ca_video = mx.zeros((5, dim))

    def _init_stream(self, stream: StreamConfig) -> None:
        config, dim = self.config, stream.inner_dim
        layers = BlockLayers(
            attn1=self._attention(dim, None, stream),
            attn2=self._attention(dim, stream.cross_attention_dim, stream),
            ff=FeedForward(dim, dim, bias=stream.ff_bias),
            scale_shift_table=mx.zeros((config.adaln_rows, dim)),
            prompt_scale_shift_table=mx.zeros((2, dim)) if config.cross_attention_adaln else None,
        )
        attach(self, stream, layers._asdict())

    def _layers(self, stream: StreamConfig) -> BlockLayers:
        return BlockLayers(*attached(self, stream, BlockLayers._fields))

    def _attention(self, query_dim: int, context_dim: int | None, stream: StreamConfig) -> Attention:
        """Attention with the stream's heads."""
        config, heads, dim_head = self.config, stream.num_attention_heads, stream.attention_head_dim
        gated = config.apply_gated_attention
        return Attention(query_dim, context_dim, heads, dim_head, config.norm_eps, config.rope_type, gated)

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
        any_stream = video or audio
        if any_stream is None:
            raise InputError("a transformer block needs video, audio, or both")
        if perturbations is None:
            perturbations = BatchedPerturbationConfig.empty(any_stream.x.shape[0])
        v, a, kinds = self.config.video, self.config.audio, PerturbationType

        if _runs(video):
            video = self._self_attention(video, v, perturbations, kinds.SKIP_VIDEO_SELF_ATTN)
            video = replace(video, x=video.x + self._apply_text_cross_attention(video.x, video, v))
        if _runs(audio):
            audio = self._self_attention(audio, a, perturbations, kinds.SKIP_AUDIO_SELF_ATTN)
            audio = replace(audio, x=audio.x + self._apply_text_cross_attention(audio.x, audio, a))
        if _present(video) and _present(audio) and (video.enabled or audio.enabled):
            video, audio = self._audio_video_attention(video, audio, perturbations)
        if _runs(video):
            video = self._feed_forward(video, v)
        if _runs(audio):
            audio = self._feed_forward(audio, a)
        return video, audio

    def _modulation(self, table: mx.array, args: TransformerArgs, rows: slice) -> Modulation:
        if fused.pays():
            return Modulation(*rows_of(table, args.timesteps, rows))
        return Modulation(*self.get_ada_values(table, args.x.shape[0], args.timesteps, rows))

    def _self_attention(
        self,
        args: TransformerArgs,
        stream: StreamConfig,
        perturbations: BatchedPerturbationConfig,
        skip: PerturbationType,
    ) -> TransformerArgs:
        """``x + gate · attn1(mod(norm(x)))``; samples that ``skip`` names keep their values in place of attention."""
        layers, x = self._layers(stream), args.x
        mod = self._modulation(layers.scale_shift_table, args, SELF_ATTENTION)
        all_perturbed = perturbations.all_in_batch(skip, self.idx)
        some_perturbed = perturbations.any_in_batch(skip, self.idx) and not all_perturbed
        attended = layers.attn1(
            modulated_norm(x, mod.scale, mod.shift, self.norm_eps),
            pe=args.positional_embeddings,
            mask=args.self_attention_mask,
            perturbation_mask=perturbations.mask_like(skip, self.idx, x) if some_perturbed else None,
            all_perturbed=all_perturbed,
        )
        return replace(args, x=add_gated(x, attended, mod.gate))

    def _apply_text_cross_attention(self, x: mx.array, args: TransformerArgs, stream: StreamConfig) -> mx.array:
        """``attn2(norm(x), context)``, in 2.3 with both modulated: ``gate · attn2(mod(norm(x)), mod(context))``."""
        layers = self._layers(stream)
        if layers.prompt_scale_shift_table is None or args.prompt_timestep is None:
            return layers.attn2(rms_norm(x, eps=self.norm_eps), context=args.context, mask=args.context_mask)
        mod = self._modulation(layers.scale_shift_table, args, TEXT_ATTENTION)
        return apply_cross_attention_adaln(
            x,
            args.context,
            layers.attn2,
            mod.shift,
            mod.scale,
            mod.gate,
            layers.prompt_scale_shift_table,
            args.prompt_timestep,
            args.context_mask,
            self.norm_eps,
        )

    def _audio_video_attention(
        self, video: TransformerArgs, audio: TransformerArgs, perturbations: BatchedPerturbationConfig
    ) -> tuple[TransformerArgs, TransformerArgs]:
        """Each stream attends to the other as both were before either did."""
        kinds = PerturbationType
        v = _CrossStream(video, rms_norm(video.x, eps=self.norm_eps), self.scale_shift_table_a2v_ca_video)
        a = _CrossStream(audio, rms_norm(audio.x, eps=self.norm_eps), self.scale_shift_table_a2v_ca_audio)
        if video.enabled and not perturbations.all_in_batch(kinds.SKIP_A2V_CROSS_ATTN, self.idx):
            attn, skip = self.audio_to_video_attn, kinds.SKIP_A2V_CROSS_ATTN
            video = self._cross_attention(attn, v, a, AUDIO_TO_VIDEO, perturbations, skip)
        if audio.enabled and not perturbations.all_in_batch(kinds.SKIP_V2A_CROSS_ATTN, self.idx):
            attn, skip = self.video_to_audio_attn, kinds.SKIP_V2A_CROSS_ATTN
            audio = self._cross_attention(attn, a, v, VIDEO_TO_AUDIO, perturbations, skip)
        return video, audio

    def _cross_attention(
        self,
        attn: Attention,
        to: _CrossStream,
        source: _CrossStream,
        rows: slice,
        perturbations: BatchedPerturbationConfig,
        skip: PerturbationType,
    ) -> TransformerArgs:
        """``x + gate · attn(mod(norm(x)), mod(norm(source)))``; nothing is added to samples that ``skip`` names."""
        x = to.args.x
        queries, gate = self._cross_modulated(to, rows)
        keys, _ = self._cross_modulated(source, rows)
        attended = attn(
            queries,
            context=keys,
            pe=to.args.cross_positional_embeddings,
            k_pe=source.args.cross_positional_embeddings,
        )
        if perturbations.any_in_batch(skip, self.idx):
            attended = attended * perturbations.mask_like(skip, self.idx, x)
        return replace(to.args, x=add_gated(x, attended, gate))

    def _cross_modulated(self, stream: _CrossStream, rows: slice) -> tuple[mx.array, mx.array | Row]:
        args, batch = stream.args, stream.normed.shape[0]
        assert args.cross_scale_shift_timestep is not None and args.cross_gate_timestep is not None  # both are present
        if fused.pays():
            by, to = rows_of(stream.table, args.cross_scale_shift_timestep, rows)
            row = Row(stream.table, CROSS_GATE, args.cross_gate_timestep, 0)
            return modulated_norm(args.x, by, to, self.norm_eps), row
        scale, shift, gate = self.get_av_ca_ada_values(
            stream.table, batch, args.cross_scale_shift_timestep, args.cross_gate_timestep, rows
        )
        return modulate(stream.normed, scale, shift), gate

    def _feed_forward(self, args: TransformerArgs, stream: StreamConfig) -> TransformerArgs:
        """``x + gate · ff(mod(norm(x)))``."""
        layers, x = self._layers(stream), args.x
        mod = self._modulation(layers.scale_shift_table, args, FEED_FORWARD)
        out = layers.ff(modulated_norm(x, mod.scale, mod.shift, self.norm_eps))
        return replace(args, x=add_gated(x, out, mod.gate))
