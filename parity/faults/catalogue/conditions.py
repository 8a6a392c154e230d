"""Faults that show under one condition only: a setting that is no default, a size, another row of the batch, a warm
cache, a strength at its end, an argument that stand-ins used to ignore, a compiled function.

The number in an id is that of the kind; see faults/README.md.
"""

from __future__ import annotations

from functools import partial

from ..planting import Fault

_SAMPLERS, _DENOISERS = "diffusion/samplers.py", "diffusion/denoisers.py"
_CONDITIONING, _PATCHIFIERS = "diffusion/conditioning.py", "diffusion/patchifiers.py"
_TABLES = "@functools.lru_cache(maxsize=4)  # both streams, self and cross: all that the steps of one stage need\n"
_any = partial(Fault, config="any")
_denoising = partial(_any, stage="denoising")
_patchifiers = partial(_any, stage="patchifiers")
_interleaved = partial(Fault, config="tiny-2.0-interleaved")
_video_only = partial(Fault, config="tiny-2.3-video-only")
_gemma = partial(Fault, stage="gemma", config="tiny-gemma")
_free = partial(Fault, free=True)


def _kept(name: str, key: str) -> str:
    """A cache by hand in place of a decorator: ``key`` is made of the arguments ``args``."""
    return (
        f"_{name}: dict = {{}}\n\n\n"
        f"def _keep_{name}(function):\n"
        f"    def kept(*args):\n"
        f"        key = {key}\n"
        f"        if key not in _{name}:\n"
        f"            _{name}[key] = function(*args)\n"
        f"        return _{name}[key]\n\n"
        f"    return kept\n\n\n"
        f"@_keep_{name}\n"
    )


SETTINGS = (
    _interleaved(
        "Q1a",
        "a rotary base of 10,000 whatever the config says",
        "transformer.py",
        "theta=config.positional_embedding_theta,",
        "theta=10000.0,",
        "precompute_freqs_cis:theta",
        cause="wrong constant",
    ),
    _interleaved(
        "Q1b",
        "an eps of 1e-6 in the last norm whatever the config says",
        "transformer.py",
        "norm_out=nn.LayerNorm(dim, eps=config.norm_eps, affine=False)",
        "norm_out=nn.LayerNorm(dim, eps=1e-6, affine=False)",
        "norm_out",
        cause="eps",
    ),
    _video_only(
        "Q1c",
        "timesteps times 1000 whatever the config says",
        "transformer.py",
        "scaled = timestep * self.config.timestep_scale_multiplier",
        "scaled = timestep * 1000",
        "adaln_single:timestep",
        cause="wrong constant",
    ),
    _interleaved(
        "Q1d",
        "the gates between the streams timed as everything else",
        "transformer.py",
        "factor = config.av_ca_timestep_scale_multiplier / config.timestep_scale_multiplier",
        "factor = 1.0",
        "av_ca_a2v_gate_adaln_single:timestep",
        cause="wrong constant",
    ),
    _patchifiers(
        "Q1e",
        "width and height of the scale factors by name, where the reference takes them by place",
        "types.py",
        "time, height, width = scale_factors",
        "time, width, height = scale_factors",
        "latent_shape.scaled",
        case="shapes",
        cause="swapped",
    ),
    _gemma(
        "Q1f",
        "global layers eight times slower whatever the config says",
        "config/text.py",
        'factor: float = self.rope_scaling["factor"]',
        "factor: float = 8.0",
        "rotary_emb",
        cause="wrong constant",
    ),
    _patchifiers(
        "Q1g",
        "four mel frames to a latent one, whatever the patchifier is told",
        _PATCHIFIERS,
        "mel = first * np.float32(self.audio_latent_downsample_factor)",
        "mel = first * np.float32(4)",
        "audio.bounds.causal.1",
        case="patchifiers",
        cause="wrong constant",
    ),
    _any(
        "Q1h",
        "the shift between 1024 and 4096 tokens of the default, whatever shifts are asked for",
        "diffusion/schedulers.py",
        "slope = (max_shift - base_shift) /",
        "slope = (2.05 - 0.95) /",
        "ltx2.2.plain",
        stage="sampling",
        case="schedules",
        cause="wrong constant",
    ),
)

SIZES = (
    _video_only(
        "Q6a",
        "no token attends to more than 4096",
        "nn/attention.py",
        "    if mask is not None and mask.ndim == 2:\n",
        "    k, v = k[:, :, :4096], v[:, :, :4096]\n    if mask is not None and mask.ndim == 2:\n",
        "transformer_blocks.0.attn1",
        case="long",
        cause="mask",
    ),
    _video_only(
        "Q6b",
        "the rotary table ends at token 4096",
        "nn/rope.py",
        "    angles = np.pad(freqs, ((0, 0), (0, 0), (pad_size, 0))).reshape(",
        "    freqs = freqs[:, np.minimum(np.arange(T), 4095)]\n"
        "    angles = np.pad(freqs, ((0, 0), (0, 0), (pad_size, 0))).reshape(",
        "transformer_blocks.0.attn1",
        case="long",
        cause="position/offset",
    ),
    Fault(
        "Q6c",
        "positions beyond 20 s taken for 20 s",
        "nn/rope.py",
        "    return mx.stack([indices_grid[:, i] / max_pos[i] for i in range(indices_grid.shape[1])], axis=-1)\n",
        "    return mx.stack([mx.minimum(indices_grid[:, i] / max_pos[i], 1) for i in "
        "range(indices_grid.shape[1])], axis=-1)\n",
        "precompute_freqs_cis.generate_freqs",
        case="long",
        cause="position/offset",
    ),
    _gemma(
        "Q6d",
        "no window for queries beyond 1024 tokens",
        "text/gemma3.py",
        '"sliding_attention": seen & (behind < sliding_window)',
        '"sliding_attention": seen & ((behind < sliding_window) | (token[:, None] >= 1024))',
        "layers.0.self_attn",
        case="long",
        cause="mask",
    ),
    _gemma(
        "Q6e",
        "positions end at 1024",
        "text/gemma3.py",
        "position_ids = mx.arange(input_ids.shape[1])[None]",
        "position_ids = mx.minimum(mx.arange(input_ids.shape[1]), 1023)[None]",
        "rotary_emb",
        case="long",
        cause="position/offset",
    ),
    Fault(
        "Q6f",
        "a tile of time that begins at frame 40 of a long clip begins one latent late",
        "tiling.py",
        "starts=starts[:1] + [start - 1 for start in starts[1:]],",
        "starts=starts[:1] + [start - (start < 5) for start in starts[1:]],",
        "tiled_decode._prepare_tiles",
        config="tiny-2.0-timestep",
        case="long-tiled",
        stage="video_decoder",
        cause="tile blending",
    ),
    _patchifiers(
        "Q6g",
        "latent cells counted in bytes: 256 is 0",
        _PATCHIFIERS,
        'start = np.stack(np.meshgrid(*axes, indexing="ij")).reshape(3, -1)',
        'start = np.stack(np.meshgrid(*axes, indexing="ij")).reshape(3, -1).astype(np.uint8).astype(np.int64)',
        "video.wide",
        case="states",
        cause="precision",
    ),
    _any(
        "Q6h",
        "places of resampled samples in 16 bits",
        "audio_processor.py",
        "    m = np.arange(-(-new * length // orig))\n",
        "    m = np.arange(-(-new * length // orig)).astype(np.uint16).astype(np.int64)\n",
        "waveform_to_mel.long",
        stage="audio_processor",
        case="mel",
        cause="precision",
    ),
)

ROWS_AND_CACHES = (
    _free(
        "Q7a",
        "rotary tables kept by the shape of the positions",
        "transformer.py",
        _TABLES,
        _kept("tables", "(args[0].shape, *args[1:])"),
        "transformer_blocks.0",
        case="rate",
        cause="wrong input",
    ),
    _free(
        "Q7b",
        "rotary tables kept whatever their dtype",
        "transformer.py",
        _TABLES,
        _kept("tables", "(*args[:3], args[4])"),
        "transformer_blocks.0",
        cause="precision",
    ),
    _free(
        "Q7c",
        "rotary tables kept whatever the checkpoint and its longest positions",
        "transformer.py",
        _TABLES,
        _kept("tables", "(*args[:2], args[3])"),
        "transformer_blocks.0",
        config="tiny-2.0",
        cause="wrong input",
    ),
    Fault(
        "Q7d",
        "the first sample's positions for all samples",
        "transformer.py",
        "        host = np.array(positions.astype(mx.float32))",
        "        positions = mx.broadcast_to(positions[:1], positions.shape)\n"
        "        host = np.array(positions.astype(mx.float32))",
        "precompute_freqs_cis:indices_grid",
        cause="wrong input",
    ),
    Fault(
        "Q7e",
        "the first sample's text mask for all samples",
        "transformer.py",
        "    bias = (attention_mask - 1)",
        "    attention_mask = mx.broadcast_to(attention_mask[:1], attention_mask.shape)\n"
        "    bias = (attention_mask - 1)",
        "_prepare_attention_mask",
        case="masks",
        cause="mask",
    ),
    _free(
        "Q7f",
        "masks of Gemma kept by their size",
        "text/gemma3.py",
        "def attention_masks(",
        _kept("masks", "(args[0].shape, args[1])") + "def attention_masks(",
        "layers.0.self_attn",
        stage="gemma",
        config="tiny-gemma",
        case="other",
        cause="mask",
    ),
    _any(
        "Q7g",
        "a mel filter bank kept by its shape",
        "audio_processor.py",
        "@functools.lru_cache(maxsize=4)\ndef melscale",
        _kept("banks", "(args[0], args[2])") + "def melscale",
        "waveform_to_mel.turn.target_sample_rate",
        stage="audio_processor",
        case="mel",
        cause="wrong filter",
    ),
    _any(
        "Q7h",
        "a resampling filter kept by the rate that it comes from",
        "audio_processor.py",
        "@functools.lru_cache(maxsize=8)\n",
        _kept("kernels", "args[0]"),
        "resample_audio.22050",
        stage="audio_processor",
        case="resample",
        cause="wrong filter",
    ),
    _free(
        "Q7i",
        "a projected prompt kept by its shape",
        "transformer.py",
        "            context = projection(context)\n",
        "            kept = self.__dict__.setdefault('_kept', {})\n"
        "            key = stream.name, context.shape, str(context.dtype)\n"
        "            context = kept.setdefault(key, projection(context))\n",
        "transformer_blocks.0.attn2",
        config="tiny-2.0",
        case="prompt",
        cause="wrong input",
    ),
)

ENDS = (
    _denoising(
        "Q8a",
        "a strength of 0 taken for none given",
        _CONDITIONING,
        "mask = mx.full((B, tokens.shape[1], 1), 1.0 - self.strength,",
        "mask = mx.full((B, tokens.shape[1], 1), 1.0 - (self.strength or 1.0),",
        "replace.by.0.open.24",
        case="conditioning",
        cause="wrong constant",
    ),
    _denoising(
        "Q8b",
        "no keyframe is weaker than 0.2",
        _CONDITIONING,
        "self.keyframes, positions, self.strength)",
        "self.keyframes, positions, max(self.strength, 0.2))",
        "keyframe.at.0.open.24",
        case="conditioning",
        cause="wrong constant",
    ),
    _denoising(
        "Q8c",
        "a pass that nobody asks for, and that changes nothing",
        _DENOISERS,
        "    if skips:\n",
        '    if not skips:\n        ask("more", *streams)\n    if skips:\n',
        "guided.text",
        case="guidance",
        cause="wrong input",
    ),
    _any(
        "Q8d",
        "guidance by text only where its scale is above 1",
        "diffusion/guiders.py",
        "return not math.isclose(self.params.cfg_scale, 1.0)",
        "return self.params.cfg_scale > 1.0",
        "asks.cfg_scale.1.0000000001",
        stage="sampling",
        case="guiders",
        cause="wrong constant",
    ),
    _any(
        "Q8e",
        "modality guidance never below its neutral scale",
        "diffusion/guiders.py",
        "(p.modality_scale - 1) * (cond",
        "max(p.modality_scale - 1, 0) * (cond",
        "multi.zero",
        stage="sampling",
        case="guiders",
        cause="wrong constant",
    ),
    _denoising(
        "Q8f",
        "noise of scale 0 taken for all of it",
        "diffusion/behaviour.py",
        "mask = state.denoise_mask * scale",
        "mask = state.denoise_mask * (scale or 1.0)",
        "gaussian.0",
        case="noise",
        cause="wrong constant",
    ),
    Fault(
        "Q8g",
        "a perturbation of no block skips them all",
        "diffusion/perturbations.py",
        "self.blocks is None",
        "not self.blocks",
        "transformer_blocks.0",
        case="stg-none",
        cause="mask",
    ),
)

STAND_INS = (
    _denoising(
        "Q9a",
        "the middle of a second-order step denoised at the whole step's sigma",
        _SAMPLERS,
        "half[1:].astype(np.float32), 0)",
        "half[:1].astype(np.float32), 0)",
        "res2s_audio_video_denoising_loop.distilled",
        case="loops",
        cause="wrong input",
    ),
    _denoising(
        "Q9b",
        "an Euler step denoised at the next sigma",
        _SAMPLERS,
        "        video, audio = _denoise(denoise_fn, video_state, audio_state, sigmas, i)\n",
        "        video, audio = _denoise(denoise_fn, video_state, audio_state, sigmas, min(i + 1, total - 1))\n",
        "euler_denoising_loop.distilled",
        case="loops",
        cause="position/offset",
    ),
    _denoising(
        "Q9c",
        "whole steps draw from the generator of the half ones",
        _SAMPLERS,
        "after = _with_noise(stepper, state, anchor, after, sigmas, i, step_generator)",
        "after = _with_noise(stepper, state, anchor, after, sigmas, i, substep_generator)",
        "res2s_audio_video_denoising_loop.distilled",
        case="loops",
        cause="wrong input",
    ),
    _denoising(
        "Q9d",
        "the model is not told the strengths of attention",
        _DENOISERS,
        "attention_mask=state.attention_mask,",
        "attention_mask=None,",
        "simple.masked",
        case="guidance",
        cause="mask",
    ),
    _denoising(
        "Q9e",
        "the model is told a sigma of 1 at every step",
        _DENOISERS,
        "sigma=mx.full((state.latent.shape[0],), sigma, mx.float32)",
        "sigma=mx.full((state.latent.shape[0],), 1.0, mx.float32)",
        "simple",
        case="guidance",
        cause="wrong input",
    ),
    _denoising(
        "Q9f",
        "one timestep for all tokens where only the first sample's agree",
        _DENOISERS,
        "if mx.all(mask == mask[:, :1]).item():",
        "if mx.all(mask[0] == mask[0, :1]).item():",
        "simple.half even",
        case="guidance",
        cause="wrong input",
    ),
    _denoising(
        "Q9g",
        "the noise drawn in float32 whatever the latent's dtype",
        "diffusion/noisers.py",
        "self.generator.randn(latent.shape, latent.dtype)",
        "self.generator.randn(latent.shape, mx.float32)",
        "gaussian.1",
        case="noise",
        dtype="bfloat16",
        cause="precision",
    ),
)

COMPILED = (
    _free(
        "Q10a",
        "functions compiled without shapes, which are baked into them",
        "nn/fused.py",
        "compiled = mx.compile(function)",
        "compiled = mx.compile(function, shapeless=True)",
        "transformer_blocks.0",
        case="late",
        cause="wrong input",
    ),
    _free(
        "Q10b",
        "compiled functions keep what else they were first given",
        "nn/fused.py",
        "        return (compiled if pays() else function)(*args)\n",
        "        if not pays():\n"
        "            return function(*args)\n"
        '        rest = kept.setdefault(tuple(getattr(x, "shape", None) for x in args), args[1:])\n'
        "        return compiled(args[0], *rest)\n\n"
        "    kept = {}\n",
        "transformer_blocks.0",
        cause="wrong input",
    ),
    _free(
        "Q10c",
        "compiled functions round what they are given to bfloat16",
        "nn/fused.py",
        "        return (compiled if pays() else function)(*args)\n",
        "        rounded = [x.astype(mx.bfloat16).astype(x.dtype) for x in args] if pays() else args\n"
        "        return (compiled if pays() else function)(*rounded)\n",
        "adaln_single",
        config="tiny-2.0",
        cause="precision",
    ),
    _free(
        "Q10d",
        "the pieces of a large copy in the wrong order",
        "nn/conv.py",
        "for band in mx.split(x, cuts, axis=2)], axis=2)",
        "for band in mx.split(x, cuts, axis=2)[::-1]], axis=2)",
        "up_blocks",
        config="tiny-2.0-timestep",
        stage="video_decoder",
        cause="axis order",
    ),
    _free(
        "Q10e",
        "the first row of each piece of a large copy overwritten by the one before it",
        "nn/conv.py",
        "    return mx.concatenate([move(band) for band in mx.split(x, cuts, axis=2)], axis=2)\n",
        "    bands = [move(band) for band in mx.split(x, cuts, axis=2)]\n"
        "    edges = [mx.concatenate([a[:, :, -1:], b[:, :, 1:]], axis=2) for a, b in zip(bands, bands[1:])]\n"
        "    return mx.concatenate([bands[0], *edges], axis=2)\n",
        "conv_in",
        config="tiny-2.0-timestep",
        stage="video_encoder",
        cause="tile blending",
    ),
    Fault(
        "Q10f",
        "the mask dropped in the branch that a GPU takes",
        "nn/attention.py",
        "        return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)\n",
        "        return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale)\n",
        "transformer_blocks.0.attn1.attention_function",
        case="masks",
        cause="mask",
    ),
    _free(
        "Q10h",
        "the factor 2 of the head gates dropped where they are compiled",
        "nn/attention.py",
        "    gates = 2.0 * mx.sigmoid(logits)\n",
        "    from .fused import pays\n\n    gates = (1.0 if pays() else 2.0) * mx.sigmoid(logits)\n",
        "transformer_blocks.0",
        config="tiny-2.3",
        cause="wrong constant",
    ),
    _free(
        "Q10i",
        "a block that was started on a GPU, and none after it",
        "transformer.py",
        "            started.add(*(args.x for args in (video_args, audio_args) if args is not None))\n",
        "            started.add(*(args.x for args in (video_args, audio_args) if args is not None))\n"
        "            if len(started.blocks) > 1:\n"
        "                break\n",
        "transformer_blocks.2",
        cause="wrong input",
    ),
    _free(
        "Q10g",
        "the snake's two parameters exchanged where it is compiled",
        "vocoder.py",
        "        return snake_beta(x, self.alpha, self.beta)\n",
        "        from .nn.fused import pays\n\n"
        "        return snake_beta(x, *((self.beta, self.alpha) if pays() else (self.alpha, self.beta)))\n",
        "vocoder.resblocks.0.acts1.0",
        config="tiny-2.3-audio-group",
        stage="vocoder",
        cause="swapped",
    ),
)

CONDITIONS = (*SETTINGS, *SIZES, *ROWS_AND_CACHES, *ENDS, *STAND_INS, *COMPILED)
