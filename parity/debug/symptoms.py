"""The command for each symptom: what people reported, what caused it, what to run, and what its sentence then says.

Each check names the fault that it finds, by its id in the catalogue of faults. A test runs every command without and
with its fault and reads both sentences, so the table cannot promise what the commands do not do.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..declare.landmarks import STD_IN_WORDS

CLIP = "clip.npy"  # the video that a command about finished videos is given


@dataclass(frozen=True)
class Check:
    """healthy, faulty: words of the command's sentence without and with the fault. fault: its id; without one there is
    nothing to find, and the healthy sentence says so."""

    cause: str
    command: str
    healthy: str
    faulty: str = ""
    fault: str = ""

    @property
    def argv(self) -> list[str]:
        return self.command.split()


@dataclass(frozen=True)
class Symptom:
    """reported: figures for the 19B model, not measured here."""

    name: str
    checks: tuple[Check, ...]
    reported: str = ""


_VAE, _TOLD, _VIDEO = "vae --config tiny-2.0", "vae --config tiny-2.0-timestep", f"video {CLIP}"
_UPSAMPLER = "upsampler --config tiny-2.0-upsampler-x2"
_TEXT = "text RED BLUE --tokens 128 --config tiny-2.0"
_LORA = "weights --config tiny-2.0 --component transformer --lora fixtures/checkpoints/tiny-2.0-lora.safetensors"
_MODEL = "so that is the model"
_SYNC = "sync --config tiny-2.0"

SYMPTOMS = (
    Symptom(
        "Very dark, low contrast",
        (
            Check(
                "the decoder is never told its timestep",
                _TOLD,
                "told its timestep",
                "none reaches it",
                "Y01",
            ),
            Check("no timestep is taken for 0, not 0.05", _TOLD, "told its timestep", "does not take 0.05", "V10"),
            Check(
                "`timestep_conditioning` false beside a time embedder",
                _TOLD,
                "told its timestep",
                "gets none",
                "Y50",
            ),
            Check("seen in the file", _VIDEO, "has structure", "dark", "Y60"),
        ),
        "brightness 12 %, right: 32–35 %",
    ),
    Symptom(
        "Brightness falls as the timestep rises; negative scales",
        (
            Check(
                "shift and scale swapped in the decoder",
                "adaln --config tiny-2.0-timestep",
                "where they belong",
                "swapped",
                "V10e",
            ),
            Check(
                "shift and scale swapped in the transformer",
                "adaln --config tiny-2.3",
                "where they belong",
                "swapped",
                "D10",
            ),
            Check(
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
            Check(
                "the decoder's weights are not loaded",
                _VAE,
                "keeps two latents apart",
                "from conv_in on",
                "Y03",
            ),
            Check(
                "the same, by tensor",
                "weights --config tiny-2.0 --component video_decoder",
                "every one",
                "not loaded",
                "Y04",
            ),
            Check(
                "conditioning missing before the pixel norm",
                _TOLD,
                "told its timestep",
                "none reaches it",
                "Y02",
            ),
        ),
    ),
    Symptom(
        "NaN in the text encoder",
        (
            Check(
                "rows of padding fully masked, softmax over −∞",
                "nan --config tiny-2.0 --sigmas 1 0",
                "is finite",
                "appear in Gemma",
                "T05",
            ),
            Check("the same, by mask", "mask --config tiny-2.0", "come out as zero", "come out as NaN", "T05"),
        ),
    ),
    Symptom(
        "Noise instead of a picture; all loads and runs",
        (
            Check(
                "velocity where the Euler step expects X0",
                "velocity --config tiny-2.0 --sigmas 1 0.725 0",
                "returns X0",
                "velocity itself",
                "D14",
            ),
            Check("seen in the file", _VIDEO, "has structure", "noise", "Y61"),
        ),
        "latent std 0.59, right: 1.27; pixels 101–208, right: 60–251",
    ),
    Symptom(
        "Textured noise, the prompt's colours, no objects",
        (
            Check(
                "features of one hidden state, not of all",
                _TEXT,
                _MODEL,
                "depend on 1 of 8",
                "Y06",
            ),
            Check(
                "interleaved RoPE for split", "step --config tiny-2.3", "are the reference's", "apply_rotary_emb", "R01"
            ),
        ),
        "autocorrelation 0.02–0.2, real latents: 0.9",
    ),
    Symptom(
        "Two prompts give nearly the same video",
        (
            Check(
                "√hidden missing at the embedding",
                _TEXT,
                _MODEL,
                "its scale is missing",
                "Y07",
            ),
            Check(
                "states taken after each layer, not before",
                _TEXT,
                _MODEL,
                "after each layer",
                "Y08",
            ),
            Check("no final norm", _TEXT, _MODEL, "final norm", "T14"),
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
        STD_IN_WORDS,
    ),
    Symptom(
        "Late blocks look alike for two prompts",
        (
            Check("none by itself", "blocks --config tiny-2.3", _MODEL),
            Check(
                "the text does not reach the blocks",
                "blocks --config tiny-2.3",
                _MODEL,
                "the text does not reach it",
                "Y09",
            ),
        ),
        "0.96 → 0.67 (block 32) → 0.99 (47); text 169 % of x at block 0, 0.5 % at 47",
    ),
    Symptom(
        "Latent and denoised latent alike at low σ",
        (
            Check(
                "weak text conditioning",
                "denoise --config tiny-2.0 --sigmas 1 0.725 0.421875 0",
                "another prompt moves",
                "does nothing",
                "Y10",
            ),
        ),
        "r 0.546, 0.687, 0.938, 0.990 at σ 1, 0.70, 0.43, 0.23",
    ),
    Symptom(
        "Two-stage output is grey",
        (
            Check(
                "no un-normalise before the upsampler",
                _UPSAMPLER,
                "un-normalises before and normalises after",
                "does not un-normalise before",
                "K01",
            ),
            Check("statistics applied twice", _VAE, "un-normalises once", "un-normalised twice", "V01"),
            Check("seen in the file", _VIDEO, "has structure", "grey", "Y62"),
        ),
        "pixel std 8.6, right: 37–38.6; range 93–230",
    ),
    Symptom(
        "Values explode in the upsampler's residual blocks",
        (
            Check("GroupNorm of single frames", _UPSAMPLER, "stay within", "every frame alone", "U01"),
            Check(
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
            Check(
                "raw decoder output passed to the image library",
                _VAE,
                "returns bytes",
                "Cannot handle this data type",
                "Y05",
            ),
        ),
    ),
    Symptom(
        "32-pixel blocks, plaid, mosaic",
        (
            Check("unpatchify's axis order", _VAE, "puts pixels where they belong", "unpatchify", "V03b"),
            Check(
                "pixel-shuffle order",
                "upsampler --config tiny-2.3-upsampler-x2",
                "stay within",
                "pixel-shuffle order",
                "U02",
            ),
            Check(
                "weights of another upsampler",
                "weights --config tiny-2.0-upsampler-x2",
                "every one",
                "does not load",
                "Y51",
            ),
        ),
    ),
    Symptom(
        "Washed out",
        (Check("un-normalised twice", _VAE, "un-normalises once", "washed out", "V01"),),
        "pixel std 8.7, right: 35",
    ),
    Symptom(
        "Audio nearly silent, garbled or robotic",
        (
            Check(
                "`av_ca_timestep_scale_multiplier` 1 for 1000",
                "adaln --config tiny-2.3",
                "multiplied as the config says",
                "0.001 of what",
                "D01",
            ),
            Check(
                "vocoder in bfloat16",
                "audio --config tiny-2.0 --dtype bfloat16",
                "computes in float32",
                "computes in bfloat16",
                "A30",
            ),
            Check(
                "slope of the leaky ReLU",
                "audio --config tiny-2.0",
                "as in the reference",
                "leaves the reference at act_post",
                "A05",
            ),
            Check(
                "audio keys skipped at load",
                "weights --config tiny-2.3 --component transformer",
                "every one",
                "not loaded",
                "L01b",
            ),
        ),
    ),
    Symptom(
        "Audio out of step",
        (
            Check("25 frames a second for 24", _SYNC, "in step", "frames a second for 24", "R07"),
            Check("causal offset", _SYNC, "in step", "positions are shifted", "R06"),
            Check("`ceil` for `round`", _SYNC, "in step", "latent frames where", "R08"),
            Check(
                "mux cut to the shorter stream",
                _SYNC,
                "in step",
                "Writing a clip",
                "Y11",
            ),
        ),
    ),
    Symptom(
        "A LoRA does nothing",
        (
            Check(
                "names of layers",
                _LORA,
                "is W + B·A",
                "would do nothing",
                "Y52",
            ),
            Check(
                "not applied on this load path",
                _LORA,
                "is W + B·A",
                "the LoRA does nothing",
                "Y12",
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
