"""Faults of what is new in LTX-2.5's transformer."""

from __future__ import annotations

from functools import partial

from ..planting import Fault

_fault = partial(
    Fault, file="transformer.py", stage="transformer_25", config="tiny-2.5-transformer", kind="transformer"
)
_FIRST = "transformer_blocks.0.attn1"  # what follows the projection of the latents
_OWN = 'own = modality.timesteps if self.audio_video_timing == "upstream" else None\n'
_RULE = '"upstream" if config.use_keyframes_abs_pos_embedding else "1.0.0"\n'

TRANSFORMER_25 = (
    # ---- the mark of tokens that hold a single picture
    _fault(
        "D12",
        "the marker loaded and not added",
        old="            x = marked(x, modality.keyframes_mask, layers.keyframes_abs_pos_embedding)\n",
        new="            pass\n",
        tap=_FIRST,
        cause="skipped term",
        known="D12",
    ),
    _fault(
        "D12b",
        "the marker added to every token",
        old="(keyframes_mask > 0).astype(x.dtype) * embedding",
        new="mx.ones_like(keyframes_mask).astype(x.dtype) * embedding",
        tap=_FIRST,
        cause="wrong input",
        known="D12",
    ),
    _fault(
        "D13",
        "the marker in the strength of its mask",
        old="(keyframes_mask > 0).astype(x.dtype) * embedding",
        new="keyframes_mask.astype(x.dtype) * embedding",
        tap=_FIRST,
        case="slots",
        cause="wrong input",
        known="D13",
    ),
    _fault(
        "D13b",
        "the marker where its mask is 1 only",
        old="(keyframes_mask > 0).astype(x.dtype) * embedding",
        new="(keyframes_mask == 1).astype(x.dtype) * embedding",
        tap=_FIRST,
        case="slots",
        cause="wrong input",
        known="D13",
    ),
    # ---- which sigma times what in audio-video attention
    _fault(
        "D04c",
        "scale and shift of audio-video attention timed by the other stream's sigma, as 1.0.0's",
        old=_OWN,
        new="own = None\n",
        tap="av_ca_video_scale_shift_adaln_single",
        cause="wrong input",
        known="D04",
    ),
    _fault(
        "D04d",
        "gate of audio-video attention timed by the stream's own tokens",
        old="gate, _ = gate_adaln(scaled * factor",
        new="gate, _ = gate_adaln(own * factor",
        tap="av_ca_a2v_gate_adaln_single",
        cause="wrong input",
        known="D04",
    ),
    _fault(
        "D04e",
        "scale and shift of audio-video attention timed by the stream's sigma, not by its tokens",
        old=_OWN,
        new="own = modality.sigma.reshape(B, 1, 1)\n",
        tap="av_ca_video_scale_shift_adaln_single",
        cause="wrong input",
        known="D04",
    ),
    _fault(
        "D04f",
        "scale and shift of audio-video attention timed by the other stream's tokens",
        old=_OWN,
        new="own = cross_modality.timesteps\n",
        tap="av_ca_video_scale_shift_adaln_single",
        cause="wrong input",
        known="D04",
    ),
    _fault(
        "D04g",
        "2.5 with 1.0.0's rule of audio-video attention",
        old=_RULE,
        new='"1.0.0" if config.use_keyframes_abs_pos_embedding else "upstream"\n',
        tap="av_ca_video_scale_shift_adaln_single",
        cause="wrong input",
        known="D04",
    ),
    # ---- the tree
    _fault(
        "C30",
        "biases kept in the feed-forward of video",
        file="block.py",
        old="            ff=FeedForward(dim, dim, bias=stream.ff_bias),\n",
        new="            ff=FeedForward(dim, dim),\n",
        tap="missing model.diffusion_model.transformer_blocks.0.ff.net.0.proj.bias",
        cause="other network",
        loads=True,
        kind="loading",
    ),
    _fault(
        "C30b",
        "no biases in the feed-forward of audio either",
        file="config/transformer.py",
        old="            ff_bias=self.audio_ff_bias,\n",
        new="            ff_bias=self.ff_bias,\n",
        tap="left over model.diffusion_model.transformer_blocks.0.audio_ff.net.0.proj.bias",
        cause="other network",
        loads=True,
        kind="loading",
    ),
    _fault(
        "C30c",
        "no marker in the network",
        old="            keyframes_abs_pos_embedding=mx.zeros((1, dim)) if stream.keyframes else None,\n",
        new="            keyframes_abs_pos_embedding=None,\n",
        tap="left over model.diffusion_model.keyframes_abs_pos_embedding",
        cause="other network",
        loads=True,
        kind="loading",
    ),
    _fault(
        "C30d",
        "a marker for audio as well",
        file="config/transformer.py",
        old="            ff_bias=self.audio_ff_bias,\n",
        new="            ff_bias=self.audio_ff_bias,\n            keyframes=self.use_keyframes_abs_pos_embedding,\n",
        tap="missing model.diffusion_model.audio_keyframes_abs_pos_embedding",
        cause="other network",
        loads=True,
        kind="loading",
    ),
)
