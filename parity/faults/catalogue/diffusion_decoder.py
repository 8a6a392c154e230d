"""Faults of LTX-2.5's diffusion video decoder."""

from __future__ import annotations

from functools import partial

from ..planting import Fault

_decoder = partial(Fault, stage="video_decoder_25", file="diffusion_decoder.py", config="tiny-2.5-diffusion-vae")
_windows = partial(Fault, stage="video_decoder_25", file="nn/neighborhood.py", config="tiny-2.5-diffusion-vae")
_small = partial(_decoder, case="small")
_FIRST = "det_stages.0.0"

DIFFUSION_DECODER = (
    # ---- windows
    _windows(
        "J01",
        "windows cut at the ends of the grid, not shifted inward",
        old="        seen = (keys >= starts) & (keys < starts + kept)\n",
        new="        seen = abs(keys - np.arange(begin, begin + block)[:, None]) <= kept // 2\n",
        tap=f"{_FIRST}.attn.proj:x",
        cause="mask",
    ),
    _windows(
        "J02",
        "windows that begin at their query",
        old="np.clip(positions - kept // 2, 0, size - kept)",
        new="np.clip(positions, 0, size - kept)",
        tap=f"{_FIRST}.attn.proj:x",
        cause="position/offset",
    ),
    _windows(
        "J03",
        "each block of queries with the whole keys of its block, beyond their windows",
        old="        seen = (keys >= starts) & (keys < starts + kept)\n",
        new="        seen = (keys >= starts) | (keys < starts + kept)\n",
        tap=f"{_FIRST}.attn.proj:x",
        cause="mask",
    ),
    _decoder(
        "J04",
        "each stage with the window of another",
        old="zip(channels[:-1], config.stage_kernels, config",
        new="zip(channels[:-1], config.stage_kernels[3::-1], config",
        tap=f"{_FIRST}.attn.proj:x",
        cause="wrong constant",
    ),
    _decoder(
        "J05",
        "stage 5 with the last window of the list, which no stage has",
        old="DiffusionNABlock(channels[-1], config.stage5_kernel, ",
        new="DiffusionNABlock(channels[-1], config.stage_kernels[-1], ",
        tap="diff_blocks.0.attn.proj:x",
        cause="wrong constant",
    ),
    # ---- queries, keys and values
    _decoder(
        "J06",
        "queries and keys exchanged in the file's joined layer",
        old="        q, k, v = (part.reshape",
        new="        k, q, v = (part.reshape",
        tap=f"{_FIRST}.attn.q_norm:x",
        cause="swapped",
    ),
    _decoder(
        "J07",
        "keys and values exchanged in the file's joined layer",
        old="        q, k, v = (part.reshape",
        new="        q, v, k = (part.reshape",
        tap=f"{_FIRST}.attn.k_norm:x",
        cause="swapped",
    ),
    _decoder(
        "J08",
        "queries without their scale",
        old="self.rope(self.q_norm(q) * self.head_dim**-0.5, slab)",
        new="self.rope(self.q_norm(q), slab)",
        tap=f"{_FIRST}.attn.rope:hidden_states",
        cause="skipped term",
    ),
    _decoder(
        "J09",
        "the scale of released heads, whatever the file's heads are",
        old="self.head_dim**-0.5",
        new="64**-0.5",
        tap=f"{_FIRST}.attn.rope:hidden_states",
        cause="wrong constant",
    ),
    _decoder(
        "J10",
        "halves of an axis turned, not neighbours",
        old="    even, odd = pairs[..., 0], pairs[..., 1]\n",
        new="    even, odd = mx.split(x.astype(mx.float32), 2, axis=-1)\n",
        tap=f"{_FIRST}.attn.rope",
        cause="axis order",
    ),
    _decoder(
        "J11",
        "positions that begin with 1",
        old="        first = slab.first if slab else 0\n",
        new="        first = slab.first if slab else 1\n",
        tap=f"{_FIRST}.attn.rope",
        cause="position/offset",
    ),
    _decoder(
        "J12",
        "height and width turned by each other's positions",
        old="        places = np.arange(first, first + T), np.arange(H), np.arange(W)\n",
        new="        places = np.arange(first, first + T), np.arange(H) * W / H, np.arange(W) * H / W\n",
        tap=f"{_FIRST}.attn.rope",
        cause="position/offset",
    ),
    _decoder(
        "J13",
        "frequencies of a whole head, not of an axis",
        old="np.arange(0, dim, 2, dtype=np.float64) / dim",
        new="np.arange(0, dim, 2, dtype=np.float64) / 16",
        tap=f"{_FIRST}.attn.rope",
        cause="wrong constant",
    ),
    _decoder(
        "J14",
        "the feed-forward layer's branches exchanged",
        old="silu(self.w_gate(x)) * self.w_up(x)",
        new="self.w_gate(x) * silu(self.w_up(x))",
        tap=f"{_FIRST}.mlp.w_down:x",
        cause="swapped",
    ),
    # ---- stages
    _decoder(
        "J15",
        "a latent that is not un-normalised",
        old="latent = self.per_channel_statistics.un_normalize(_edges_repeated(latent, 2, 0, ghosts))",
        new="latent = _edges_repeated(latent, 2, 0, ghosts)",
        tap="conv_in:x",
        cause="missing normalisation",
    ),
    _decoder(
        "J16",
        "the last frame not repeated",
        old="        ghosts = self.config.ghost_frames\n",
        new="        ghosts = 0\n",
        tap="conv_in:x",
        cause="skipped term",
    ),
    _decoder(
        "J17",
        "the context's first frames left out in the place of the repeated ones",
        old="        return x[:, : x.shape[1] - ghosts * _TIME]\n",
        new="        return x[:, ghosts * _TIME :]\n",
        tap="diff_blocks.0.context_proj:x",
        cause="padding side",
    ),
    _decoder(
        "J18",
        "of the two first frames both kept",
        old="        return x[:, 1:] if self.stride[0] == 2 and drop_leading_frame else x\n",
        new="        return x\n",
        tap="upsamples.0",
        cause="padding side",
    ),
    _decoder(
        "J19",
        "the last frame dropped, not the first",
        old="        return x[:, 1:] if self.stride[0] == 2 and drop_leading_frame else x\n",
        new="        return x[:, :-1] if self.stride[0] == 2 and drop_leading_frame else x\n",
        tap="upsamples.0",
        cause="padding side",
    ),
    _decoder(
        "J20",
        "an upsampling layer's channels taken cell by cell, not channel by channel",
        old="        x = depth_to_space(self.proj(x), self.stride)\n",
        new="        x, cells = self.proj(x), self.stride[0] * self.stride[1] * self.stride[2]\n"
        "        x = x.reshape(*x.shape[:-1], cells, -1).swapaxes(-1, -2).reshape(x.shape)\n"
        "        x = depth_to_space(x, self.stride)\n",
        tap="upsamples.0",
        cause="axis order",
    ),
    # ---- from noise to pixels
    _decoder(
        "J21",
        "the released multiplier of the timestep, whatever the file says",
        old="mx.full((context.shape[0],), 1.0) * self.config.timestep_scale_multiplier",
        new="mx.full((context.shape[0],), 1.0) * 1000.0",
        tap="t_embedder:timestep",
        cause="wrong constant",
    ),
    _decoder(
        "J22",
        "shift and scale of attention exchanged",
        old="        scale_msa, shift_msa, _, scale_mlp, shift_mlp, _, _ = (",
        new="        shift_msa, scale_msa, _, scale_mlp, shift_mlp, _, _ = (",
        tap="diff_blocks.0.attn:hidden_states",
        cause="swapped",
    ),
    _decoder(
        "J23",
        "attention gated by the row that is not used",
        old="        attended = self.attn(self.norm1(x) * (1 + scale_msa) + shift_msa, slab)\n",
        new="        attended = self.attn(self.norm1(x) * (1 + scale_msa) + shift_msa, slab)\n"
        "        attended = attended * (modulation[2] + self.scale_shift_table[2])\n",
        tap="diff_blocks.0.norm2:x",
        cause="skipped term",
    ),
    _decoder(
        "J24",
        "the block's own table of modulation left out",
        old="            row + table for row, table in zip(",
        new="            row + 0 * table for row, table in zip(",
        tap="diff_blocks.0.attn:hidden_states",
        cause="skipped term",
    ),
    _decoder(
        "J25",
        "noise cut into patches with height before width",
        file="video_vae.py",
        old="    return x.transpose(0, 1, 2, 4, 6, 5, 3)",
        new="    return x.transpose(0, 1, 2, 4, 6, 3, 5)",
        tap="conv_in_x_t:x",
        cause="axis order",
    ),
    _decoder(
        "J26",
        "pixels made of patches with height before width",
        file="video_vae.py",
        old=".transpose(0, 1, 2, 6, 3, 5, 4)\n",
        new=".transpose(0, 1, 2, 5, 3, 6, 4)\n",
        tap="DiffusionVideoDecoder",
        cause="axis order",
    ),
    _decoder(
        "J27",
        "the eps of another norm",
        file="nn/norm.py",
        old="    def __init__(self, channels: int, eps: float = 1e-6):\n",
        new="    def __init__(self, channels: int, eps: float = 1e-5):\n",
        tap=f"{_FIRST}.norm1",
        cause="eps",
    ),
    # ---- small latents
    _small(
        "J28",
        "a short latent's first frame repeated in the place of its last",
        old="            before.append(0 if axis == 2 else need // 2)\n",
        new="            before.append(need if axis == 2 else need // 2)\n",
        tap="conv_in:x",
        cause="padding side",
    ),
    _small(
        "J29",
        "the larger half of a small latent's edges put before it",
        old="            before.append(0 if axis == 2 else need // 2)\n",
        new="            before.append(0 if axis == 2 else need - need // 2)\n",
        tap="conv_in:x",
        cause="padding side",
    ),
    _small(
        "J30",
        "the first rows and columns of a small latent's pixels kept",
        old="        top, left = (cells * _SIDE for cells in before)\n",
        new="        top, left = 0 * before[0], 0 * before[1]\n",
        tap="DiffusionVideoDecoder",
        cause="padding side",
    ),
)
