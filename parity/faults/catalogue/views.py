"""Faults that the views of ``parity debug`` name. Those that no stage's taps can see are ``seen_by="debug"``."""

from __future__ import annotations

from functools import partial

from ..planting import Fault

_told = partial(Fault, file="video_vae.py", stage="video_decoder", config="tiny-2.0-timestep")
_decoder = partial(Fault, file="loading/load.py", stage="video_decoder", config="tiny-2.0")
_text = partial(Fault, stage="gemma", config="tiny-gemma")

VIEWS = (
    _told(
        "Y01",
        "the decoder's timestep not passed on: 0 in its place",
        old="        return timestep * self.timestep_scale_multiplier",
        new="        return 0 * timestep * self.timestep_scale_multiplier",
        tap="up_blocks.0:timestep",
        cause="skipped term",
    ),
    _told(
        "Y02",
        "the decoder's tables of shift and scale read as zeros",
        old="    return tuple(rows[..., i, :] for",
        new="    return tuple(0 * rows[..., i, :] for",
        tap="up_blocks.0.res_blocks.0.non_linearity:x",
        cause="skipped term",
    ),
    _decoder(
        "Y03",
        "the weights of the decoder's first convolution not loaded",
        old="    module.load_weights(weights, strict=True)\n",
        new="    module.load_weights([p for p in weights if not p[0].startswith('conv_in')], strict=False)\n",
        tap="conv_in.conv",
        cause="wrong weights",
    ),
    _decoder(
        "Y04",
        "the weights of the decoder's blocks not loaded",
        old="    module.load_weights(weights, strict=True)\n",
        new="    module.load_weights([p for p in weights if not p[0].startswith('up_blocks')], strict=False)\n",
        tap="up_blocks.0.res_blocks.0.conv1.conv",
        cause="wrong weights",
    ),
    Fault(
        "Y05",
        "the decoder's frames passed on as numbers, not as bytes",
        "video_vae.py",
        "        yield to_uint8(frames[0])\n",
        "        yield frames[0]\n",
        "decode_video",
        stage="video_decoder",
        config="tiny-2.0",
        case="pixels",
        cause="skipped term",
    ),
    Fault(
        "Y06",
        "the features made of the last hidden state alone, not of all",
        "text/feature_extractor.py",
        "mx.stack(list(hidden_states), axis=-1)",
        "mx.stack([hidden_states[-1]] * len(hidden_states), axis=-1)",
        "feature_extractor._norm_and_concat_padded_batch:encoded_text",
        stage="embeddings_processor",
        config="tiny-2.0",
        cause="wrong input",
    ),
    _text(
        "Y07",
        "the token embedding not multiplied by the root of its width",
        "text/gemma3.py",
        "        return rows * mx.array(self.weight.shape[1] ** 0.5, mx.float32).astype(rows.dtype)\n",
        "        return rows\n",
        "embed_tokens",
        cause="wrong constant",
    ),
    _text(
        "Y08",
        "hidden states taken after each layer, not before it",
        "text/gemma3.py",
        "        states[-1] = self.norm(states[-1])\n",
        "        states = [*states[1:], states[-1]]\n",
        "norm:x",
        cause="position/offset",
    ),
    Fault(
        "Y09",
        "the text's context multiplied by zero: the same for all prompts",
        "transformer.py",
        "        return context.reshape(x.shape[0], -1, x.shape[-1])\n",
        "        return 0 * context.reshape(x.shape[0], -1, x.shape[-1])\n",
        "_prepare_context",
        cause="skipped term",
    ),
    Fault(
        "Y10",
        "the text's attention left out of every block",
        "block.py",
        "            return layers.attn2(rms_norm(x, eps=self.norm_eps), context=args.context",
        "            return 0 * layers.attn2(rms_norm(x, eps=self.norm_eps), context=args.context",
        "transformer_blocks.0.rms_norm:x",
        config="tiny-2.0",
        cause="skipped term",
    ),
    Fault(
        "Y11",
        "the last 4800 samples of the audio not written to the video file",
        "media/writing.py",
        "frame = av.AudioFrame.from_ndarray(pcm.samples.reshape(1, -1)",
        "frame = av.AudioFrame.from_ndarray(pcm.samples[:-4800].reshape(1, -1)",
        cause="padding side",
        seen_by="debug",
    ),
    Fault(
        "Y12",
        "LoRAs not fused on the path that loads single tensors",
        "loading/weights.py",
        "yield name, fuse(loras, name, array, dtype or",
        "yield name, fuse((), name, array, dtype or",
        "transformer_blocks.0.attn1.to_v",
        stage="transformer_lora",
        case="masks",
        cause="wrong weights",
    ),
)
