"""From a symptom to its command: what people reported, what caused it, what to run, and what its sentence then says.

Each check holds the fault that it finds: an edit of the product, a changed file or another clip. A test runs every
command without and with its fault and reads both sentences, so the table cannot promise what the commands do not do.
"""

from __future__ import annotations

from .faults import CLIP, Changed, Check, Clip, Symptom, check, edit, noise, other_upsampler, picture, renamed, untold

_VAE, _TOLD, _VIDEO = "vae --config tiny-2.0", "vae --config tiny-2.0-timestep", f"video {CLIP}"
_UPSAMPLER = "upsampler --config tiny-2.0-upsampler-x2"
_TEXT = "text RED BLUE --tokens 128 --config tiny-2.0"
_LORA = "weights --config tiny-2.0 --component transformer --lora fixtures/checkpoints/tiny-2.0-lora.safetensors"
_MODEL = "so that is the model"
_STATES = "mx.stack(hidden_states, axis=-1)"
_SYNC = "sync --config tiny-2.0"

SYMPTOMS = (
    Symptom(
        "Very dark, low contrast",
        (
            check(
                "the decoder is never told its timestep",
                _TOLD,
                "told its timestep",
                "none reaches it",
                edit(
                    "the timestep is not handed on",
                    "video_vae.py",
                    "        return timestep * self.timestep_scale_multiplier",
                    "        return 0 * timestep * self.timestep_scale_multiplier",
                ),
            ),
            check("no timestep is taken for 0, not 0.05", _TOLD, "told its timestep", "does not take 0.05", "V10"),
            check(
                "`timestep_conditioning` false beside a time embedder",
                _TOLD,
                "told its timestep",
                "gets none",
                Changed("the config says false", "tiny-2.0-timestep", untold),
            ),
            check("seen in the file", _VIDEO, "has structure", "dark", Clip("dark frames", lambda: picture(0.12, 14))),
        ),
        "brightness 12 %, right: 32–35 %",
    ),
    Symptom(
        "Brightness falls as the timestep rises; negative scales",
        (
            check(
                "shift and scale swapped in the decoder",
                "adaln --config tiny-2.0-timestep",
                "where they belong",
                "swapped",
                "V10e",
            ),
            check(
                "shift and scale swapped in the transformer",
                "adaln --config tiny-2.3",
                "where they belong",
                "swapped",
                "D10",
            ),
            check(
                "shift before scale in the audio-video tables",
                "adaln --config tiny-2.3",
                "where they belong",
                "swapped",
                "D10b",
            ),
        ),
    ),
    Symptom(
        "Different latents decode to nearly the same video",
        (
            check(
                "the decoder's weights are not loaded",
                _VAE,
                "keeps two latents apart",
                "from conv_in on",
                edit(
                    "the first convolution is left out",
                    "loading/load.py",
                    "    module.load_weights(weights, strict=True)\n",
                    "    module.load_weights([p for p in weights if not p[0].startswith('conv_in')], strict=False)\n",
                ),
            ),
            check(
                "the same, by tensor",
                "weights --config tiny-2.0 --component video_decoder",
                "every one",
                "not loaded",
                edit(
                    "the blocks' weights are left out, by tensor",
                    "loading/load.py",
                    "    module.load_weights(weights, strict=True)\n",
                    "    module.load_weights([p for p in weights if not p[0].startswith('up_blocks')], strict=False)\n",
                ),
            ),
            check(
                "conditioning missing before the pixel norm",
                _TOLD,
                "told its timestep",
                "none reaches it",
                edit(
                    "the rows are zero",
                    "video_vae.py",
                    "    return tuple(rows[..., i, :] for",
                    "    return tuple(0 * rows[..., i, :] for",
                ),
            ),
        ),
    ),
    Symptom(
        "NaN in the text encoder",
        (
            check(
                "rows of padding fully masked, softmax over −∞",
                "nan --config tiny-2.0 --sigmas 1 0",
                "is finite",
                "appear in Gemma",
                "T05",
            ),
            check("the same, by mask", "mask --config tiny-2.0", "come out as zero", "come out as NaN", "T05"),
        ),
    ),
    Symptom(
        "Noise instead of a picture; all loads and runs",
        (
            check(
                "velocity where the Euler step expects X0",
                "velocity --config tiny-2.0 --sigmas 1 0.725 0",
                "hands on X0",
                "velocity itself",
                "D14",
            ),
            check("seen in the file", _VIDEO, "has structure", "noise", Clip("noise", noise)),
        ),
        "latent std 0.59, right: 1.27; pixels 101–208, right: 60–251",
    ),
    Symptom(
        "Textured noise, the prompt's colours, no objects",
        (
            check(
                "features of one hidden state, not of all",
                _TEXT,
                _MODEL,
                "depend on 1 of 8",
                edit(
                    "the last state for all",
                    "text/feature_extractor.py",
                    _STATES,
                    "mx.stack([hidden_states[-1]] * len(hidden_states), axis=-1)",
                ),
            ),
            check(
                "interleaved RoPE for split", "step --config tiny-2.3", "are the reference's", "apply_rotary_emb", "R01"
            ),
        ),
        "autocorrelation 0.02–0.2, real latents: 0.9",
    ),
    Symptom(
        "Two prompts give nearly the same video",
        (
            check(
                "√hidden missing at the embedding",
                _TEXT,
                _MODEL,
                "its scale is missing",
                edit(
                    "no scale",
                    "text/gemma3.py",
                    "        return self.weight[input_ids] * scale\n",
                    "        return self.weight[input_ids]\n",
                ),
            ),
            check(
                "states taken after each layer, not before",
                _TEXT,
                _MODEL,
                "after each layer",
                edit(
                    "states one layer late",
                    "text/gemma3.py",
                    "        states[-1] = self.norm(states[-1])\n",
                    "        states = [*states[1:], states[-1]]\n",
                ),
            ),
            check("no final norm", _TEXT, _MODEL, "final norm", "T14"),
        ),
        "text r above 0.99; right: 0.731 at layer 48, 0.53–0.58 for very different prompts",
    ),
    Symptom(
        "r of two prompts rises through the caption projection",
        (Check("none: that is the model", _TEXT, _MODEL),),
        "0.80 → 0.92",
    ),
    Symptom(
        "Hidden states grow through the blocks",
        (Check("none: that is the model", "blocks --config tiny-2.0", _MODEL),),
        "std 1 → 3 (block 0) → 6.6 (23) → 66–425 (47)",
    ),
    Symptom(
        "Late blocks look alike for two prompts",
        (
            Check("none by itself", "blocks --config tiny-2.3", _MODEL),
            check(
                "the text does not reach the blocks",
                "blocks --config tiny-2.3",
                _MODEL,
                "the text does not reach it",
                edit(
                    "all prompts the same",
                    "transformer.py",
                    "        return context.reshape(x.shape[0], -1, x.shape[-1])\n",
                    "        return 0 * context.reshape(x.shape[0], -1, x.shape[-1])\n",
                ),
            ),
        ),
        "0.96 → 0.67 (block 32) → 0.99 (47); text 169 % of x at block 0, 0.5 % at 47",
    ),
    Symptom(
        "Latent and denoised latent alike at low σ",
        (
            check(
                "weak text conditioning",
                "denoise --config tiny-2.0 --sigmas 1 0.725 0.421875 0",
                "another prompt moves",
                "does nothing",
                edit(
                    "text attention dropped",
                    "block.py",
                    "            return layers.attn2(rms_norm(x, eps=self.norm_eps), context=args.context",
                    "            return 0 * layers.attn2(rms_norm(x, eps=self.norm_eps), context=args.context",
                ),
            ),
        ),
        "r 0.546, 0.687, 0.938, 0.990 at σ 1, 0.70, 0.43, 0.23",
    ),
    Symptom(
        "Two-stage output is grey",
        (
            check(
                "no un-normalise before the upsampler",
                _UPSAMPLER,
                "un-normalises before and normalises after",
                "does not un-normalise before",
                "K01",
            ),
            check("statistics applied twice", _VAE, "un-normalises once", "un-normalised twice", "V01"),
            check("seen in the file", _VIDEO, "has structure", "grey", Clip("grey frames", lambda: picture(0.6, 8.6))),
        ),
        "pixel std 8.6, right: 37–38.6; range 93–230",
    ),
    Symptom(
        "Values explode in the upsampler's residual blocks",
        (
            check("GroupNorm of single frames", _UPSAMPLER, "stay within", "every frame alone", "U01"),
            check(
                "another norm around the residual sum",
                _UPSAMPLER,
                "stay within",
                "leaves the reference at res_blocks.0",
                "U04",
            ),
        ),
        "±8 → ±160 → ±800 → ±2137",
    ),
    Symptom(
        "`TypeError: Cannot handle this data type` at saving",
        (
            check(
                "raw decoder output handed to the image library",
                _VAE,
                "hands on bytes",
                "Cannot handle this data type",
                edit(
                    "no bytes",
                    "video_vae.py",
                    "        yield to_uint8(video_decoder(latent, generator=generator)[0])\n",
                    "        yield video_decoder(latent, generator=generator)[0]\n",
                ),
            ),
        ),
    ),
    Symptom(
        "32-pixel blocks, plaid, mosaic",
        (
            check("unpatchify's axis order", _VAE, "puts pixels where they belong", "unpatchify", "V03b"),
            check(
                "pixel-shuffle order",
                "upsampler --config tiny-2.3-upsampler-x2",
                "stay within",
                "pixel-shuffle order",
                "U02",
            ),
            check(
                "weights of another upsampler",
                "weights --config tiny-2.0-upsampler-x2",
                "every one",
                "does not load",
                Changed("another config", "tiny-2.0-upsampler-x2", other_upsampler),
            ),
        ),
    ),
    Symptom(
        "Washed out",
        (check("un-normalised twice", _VAE, "un-normalises once", "washed out", "V01"),),
        "pixel std 8.7, right: 35",
    ),
    Symptom(
        "Sound nearly silent, garbled or robotic",
        (
            check(
                "`av_ca_timestep_scale_multiplier` 1 for 1000",
                "adaln --config tiny-2.3",
                "multiplied as the config says",
                "0.001 of what",
                "D01",
            ),
            check(
                "vocoder in bfloat16",
                "audio --config tiny-2.0 --dtype bfloat16",
                "computes in float32",
                "computes in bfloat16",
                "A30",
            ),
            check(
                "slope of the leaky ReLU",
                "audio --config tiny-2.0",
                "as in the reference",
                "leaves the reference at act_post",
                "A05",
            ),
            check(
                "audio keys skipped at load",
                "weights --config tiny-2.3 --component transformer",
                "every one",
                "not loaded",
                "L01b",
            ),
        ),
    ),
    Symptom(
        "Sound out of step",
        (
            check("25 frames a second for 24", _SYNC, "in step", "frames a second for 24", "R07"),
            check("causal offset", _SYNC, "in step", "positions are shifted", "R06"),
            check("`ceil` for `round`", _SYNC, "in step", "latent frames where", "R08"),
            check(
                "mux cut to the shorter stream",
                _SYNC,
                "in step",
                "Writing a clip",
                edit(
                    "sound cut short",
                    "media.py",
                    "frame = av.AudioFrame.from_ndarray(pcm.samples.reshape(1, -1)",
                    "frame = av.AudioFrame.from_ndarray(pcm.samples[:-4800].reshape(1, -1)",
                ),
            ),
        ),
    ),
    Symptom(
        "A LoRA does nothing",
        (
            check(
                "key prefix",
                _LORA,
                "is W + B·A",
                "would do nothing",
                Changed("another prefix", "tiny-2.0-lora", renamed),
            ),
            check(
                "not applied on this load path",
                _LORA,
                "is W + B·A",
                "the LoRA does nothing",
                edit(
                    "fused nowhere",
                    "loading/load.py",
                    "yield name, fuse(loras, name, array, dtype or",
                    "yield name, fuse((), name, array, dtype or",
                ),
            ),
        ),
    ),
)


def markdown() -> str:
    """The table for people. The commands run as they stand on the tiny checkpoints; on real files say --checkpoint FILE
    (and --gemma FOLDER) for --config NAME."""
    lines = [
        "| symptom | cause | `python -m parity debug …` | when right, it says | when that is the fault |",
        "|---|---|---|---|---|",
    ]
    for symptom in SYMPTOMS:
        name = symptom.name + (f" ({symptom.reported})" if symptom.reported else "")
        for row in symptom.checks:
            faulty = f"“… {row.faulty} …”" if row.faulty else "–"
            lines.append(f"| {name} | {row.cause} | `{row.command}` | “… {row.healthy} …” | {faulty} |")
            name = ""
    lines += ["", "Figures in brackets were reported for the 19B model; they are not measured here."]
    return "\n".join(lines)
