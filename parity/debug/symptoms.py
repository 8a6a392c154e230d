"""From a symptom to its command: what people reported, what caused it, what to run, and what its sentence then says.

Each check holds the fault that it finds: an edit of the product, a changed file or another clip. A test runs every
command without and with its fault and reads both sentences, so the table cannot promise what the commands do not do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from ..mutations import MUTATIONS, Mutation

CLIP = "clip.npy"  # the video that a command about finished videos is given
_BY_ID = {mutation.id: mutation for mutation in MUTATIONS}


@dataclass(frozen=True)
class Changed:
    """A fault that is in a file: what becomes of its metadata and tensors. ``file``: the command's argument."""

    fault: str
    file: str
    change: Callable[[dict[str, str], dict[str, mx.array]], None]


@dataclass(frozen=True)
class Clip:
    """A fault that is in the frames: ``(F, H, W, 3)`` bytes."""

    fault: str
    frames: Callable[[], np.ndarray]


Fault = Mutation | Changed | Clip


@dataclass(frozen=True)
class Check:
    """healthy, faulty: words of the command's sentence without and with the fault. fault None: there is none to find,
    and the healthy sentence says so."""

    cause: str
    command: str
    healthy: str
    faulty: str = ""
    fault: Fault | None = None

    @property
    def argv(self) -> list[str]:
        return self.command.split()


@dataclass(frozen=True)
class Symptom:
    """reported: figures for the 19B model, not measured here."""

    name: str
    checks: tuple[Check, ...]
    reported: str = ""


def _edit(fault: str, file: str, old: str, new: str) -> Mutation:
    return Mutation(f"debug: {fault}", fault, file, old, new, tap="")


def _check(cause: str, command: str, healthy: str, faulty: str, fault: str | Fault) -> Check:
    """fault: the id of a planted fault, or one of this table's own."""
    return Check(cause, command, healthy, faulty, _BY_ID[fault] if isinstance(fault, str) else fault)


def _untold(metadata: dict[str, str], tensors: dict[str, mx.array]) -> None:
    metadata["config"] = metadata["config"].replace('"timestep_conditioning": true', '"timestep_conditioning": false')


def _renamed(metadata: dict[str, str], tensors: dict[str, mx.array]) -> None:
    for key in list(tensors):
        tensors[key.replace("diffusion_model.", "base_model.model.")] = tensors.pop(key)


def _other_upsampler(metadata: dict[str, str], tensors: dict[str, mx.array]) -> None:
    metadata["config"] = metadata["config"].replace('"spatial_scale": 2.0', '"spatial_scale": 1.5')


def picture(light: float = 0.34, spread: float = 36.0) -> np.ndarray:
    """A moving, smooth picture of this brightness (0 to 1) and standard deviation (bytes)."""
    t, y, x, c = np.meshgrid(*(np.linspace(0, 1, n) for n in (9, 48, 64, 3)), indexing="ij")
    wave = np.sin(7 * x + 3 * t + c) + np.cos(5 * y - 2 * t + 0.5 * c)
    wave = (wave - wave.mean()) / wave.std()
    return np.clip(255 * light + spread * wave, 0, 255).astype(np.uint8)


def _noise() -> np.ndarray:
    return np.clip(150 + 30 * np.random.default_rng(0).standard_normal((9, 48, 64, 3)), 0, 255).astype(np.uint8)


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
            _check(
                "the decoder is never told its timestep",
                _TOLD,
                "told its timestep",
                "none reaches it",
                _edit(
                    "the timestep is not handed on",
                    "video_vae.py",
                    "        return timestep * self.timestep_scale_multiplier",
                    "        return 0 * timestep * self.timestep_scale_multiplier",
                ),
            ),
            _check("no timestep is taken for 0, not 0.05", _TOLD, "told its timestep", "does not take 0.05", "V10"),
            _check(
                "`timestep_conditioning` false beside a time embedder",
                _TOLD,
                "told its timestep",
                "gets none",
                Changed("the config says false", "tiny-2.0-timestep", _untold),
            ),
            _check("seen in the file", _VIDEO, "has structure", "dark", Clip("dark frames", lambda: picture(0.12, 14))),
        ),
        "brightness 12 %, right: 32–35 %",
    ),
    Symptom(
        "Brightness falls as the timestep rises; negative scales",
        (
            _check(
                "shift and scale swapped in the decoder",
                "adaln --config tiny-2.0-timestep",
                "where they belong",
                "swapped",
                "V10e",
            ),
            _check(
                "shift and scale swapped in the transformer",
                "adaln --config tiny-2.3",
                "where they belong",
                "swapped",
                "D10",
            ),
            _check(
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
            _check(
                "the decoder's weights are not loaded",
                _VAE,
                "keeps two latents apart",
                "from conv_in on",
                _edit(
                    "the first convolution is left out",
                    "weights.py",
                    "    module.load_weights(weights, strict=True)\n",
                    "    module.load_weights([p for p in weights if not p[0].startswith('conv_in')], strict=False)\n",
                ),
            ),
            _check(
                "the same, by tensor",
                "weights --config tiny-2.0 --component video_decoder",
                "every one",
                "not loaded",
                _edit(
                    "the blocks' weights are left out, by tensor",
                    "weights.py",
                    "    module.load_weights(weights, strict=True)\n",
                    "    module.load_weights([p for p in weights if not p[0].startswith('up_blocks')], strict=False)\n",
                ),
            ),
            _check(
                "conditioning missing before the pixel norm",
                _TOLD,
                "told its timestep",
                "none reaches it",
                _edit(
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
            _check(
                "rows of padding fully masked, softmax over −∞",
                "nan --config tiny-2.0 --sigmas 1 0",
                "is finite",
                "appear in Gemma",
                "T05",
            ),
            _check("the same, by mask", "mask --config tiny-2.0", "come out as zero", "come out as NaN", "T05"),
        ),
    ),
    Symptom(
        "Noise instead of a picture; all loads and runs",
        (
            _check(
                "velocity where the Euler step expects X0",
                "velocity --config tiny-2.0 --sigmas 1 0.725 0",
                "hands on X0",
                "velocity itself",
                "D14",
            ),
            _check("seen in the file", _VIDEO, "has structure", "noise", Clip("noise", _noise)),
        ),
        "latent std 0.59, right: 1.27; pixels 101–208, right: 60–251",
    ),
    Symptom(
        "Textured noise, the prompt's colours, no objects",
        (
            _check(
                "features of one hidden state, not of all",
                _TEXT,
                _MODEL,
                "depend on 1 of 8",
                _edit(
                    "the last state for all",
                    "text/feature_extractor.py",
                    _STATES,
                    "mx.stack([hidden_states[-1]] * len(hidden_states), axis=-1)",
                ),
            ),
            _check(
                "interleaved RoPE for split", "step --config tiny-2.3", "are the reference's", "apply_rotary_emb", "R01"
            ),
        ),
        "autocorrelation 0.02–0.2, real latents: 0.9",
    ),
    Symptom(
        "Two prompts give nearly the same video",
        (
            _check(
                "√hidden missing at the embedding",
                _TEXT,
                _MODEL,
                "its scale is missing",
                _edit(
                    "no scale",
                    "text/gemma3.py",
                    "        return self.weight[input_ids] * scale\n",
                    "        return self.weight[input_ids]\n",
                ),
            ),
            _check(
                "states taken after each layer, not before",
                _TEXT,
                _MODEL,
                "after each layer",
                _edit(
                    "states one layer late",
                    "text/gemma3.py",
                    "        states[-1] = self.norm(states[-1])\n",
                    "        states = [*states[1:], states[-1]]\n",
                ),
            ),
            _check("no final norm", _TEXT, _MODEL, "final norm", "T14"),
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
            _check(
                "the text does not reach the blocks",
                "blocks --config tiny-2.3",
                _MODEL,
                "the text does not reach it",
                _edit(
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
            _check(
                "weak text conditioning",
                "denoise --config tiny-2.0 --sigmas 1 0.725 0.421875 0",
                "another prompt moves",
                "does nothing",
                _edit(
                    "text attention dropped",
                    "transformer.py",
                    "            return attn(rms_norm(x, eps=self.norm_eps), context=args.context",
                    "            return 0 * attn(rms_norm(x, eps=self.norm_eps), context=args.context",
                ),
            ),
        ),
        "r 0.546, 0.687, 0.938, 0.990 at σ 1, 0.70, 0.43, 0.23",
    ),
    Symptom(
        "Two-stage output is grey",
        (
            _check(
                "no un-normalise before the upsampler",
                _UPSAMPLER,
                "un-normalises before and normalises after",
                "does not un-normalise before",
                "K01",
            ),
            _check("statistics applied twice", _VAE, "un-normalises once", "un-normalised twice", "V01"),
            _check("seen in the file", _VIDEO, "has structure", "grey", Clip("grey frames", lambda: picture(0.6, 8.6))),
        ),
        "pixel std 8.6, right: 37–38.6; range 93–230",
    ),
    Symptom(
        "Values explode in the upsampler's residual blocks",
        (
            _check("GroupNorm of single frames", _UPSAMPLER, "stay within", "every frame alone", "U01"),
            _check(
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
            _check(
                "raw decoder output handed to the image library",
                _VAE,
                "hands on bytes",
                "Cannot handle this data type",
                _edit(
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
            _check("unpatchify's axis order", _VAE, "puts pixels where they belong", "unpatchify", "V03b"),
            _check(
                "pixel-shuffle order",
                "upsampler --config tiny-2.3-upsampler-x2",
                "stay within",
                "pixel-shuffle order",
                "U02",
            ),
            _check(
                "weights of another upsampler",
                "weights --config tiny-2.0-upsampler-x2",
                "every one",
                "does not load",
                Changed("another config", "tiny-2.0-upsampler-x2", _other_upsampler),
            ),
        ),
    ),
    Symptom(
        "Washed out",
        (_check("un-normalised twice", _VAE, "un-normalises once", "washed out", "V01"),),
        "pixel std 8.7, right: 35",
    ),
    Symptom(
        "Sound nearly silent, garbled or robotic",
        (
            _check(
                "`av_ca_timestep_scale_multiplier` 1 for 1000",
                "adaln --config tiny-2.3",
                "multiplied as the config says",
                "0.001 of what",
                "D01",
            ),
            _check(
                "vocoder in bfloat16",
                "audio --config tiny-2.0 --dtype bfloat16",
                "computes in float32",
                "computes in bfloat16",
                "A30",
            ),
            _check(
                "slope of the leaky ReLU",
                "audio --config tiny-2.0",
                "as in the reference",
                "leaves the reference at act_post",
                "A05",
            ),
            _check(
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
            _check("25 frames a second for 24", _SYNC, "in step", "frames a second for 24", "R07"),
            _check("causal offset", _SYNC, "in step", "positions are shifted", "R06"),
            _check("`ceil` for `round`", _SYNC, "in step", "latent frames where", "R08"),
            _check(
                "mux cut to the shorter stream",
                _SYNC,
                "in step",
                "Writing a clip",
                _edit(
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
            _check(
                "key prefix",
                _LORA,
                "is W + B·A",
                "would do nothing",
                Changed("another prefix", "tiny-2.0-lora", _renamed),
            ),
            _check(
                "not applied on this load path",
                _LORA,
                "is W + B·A",
                "the LoRA does nothing",
                _edit(
                    "fused nowhere",
                    "weights.py",
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
        for check in symptom.checks:
            faulty = f"“… {check.faulty} …”" if check.faulty else "–"
            lines.append(f"| {name} | {check.cause} | `{check.command}` | “… {check.healthy} …” | {faulty} |")
            name = ""
    lines += ["", "Figures in brackets were reported for the 19B model; they are not measured here."]
    return "\n".join(lines)


def place(fault: Changed, source: Path, folder: Path) -> Path:
    """The file of a command with the fault in it, in ``folder``."""
    tensors, metadata = mx.load(str(source), return_metadata=True)
    fault.change(metadata, tensors)
    target = folder / source.name
    mx.save_safetensors(str(target), tensors, metadata)
    return target
