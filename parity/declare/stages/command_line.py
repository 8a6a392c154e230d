"""Everything that a command line says, from its flags to the pipeline and the writer, without loading a network.

Both sides run their own ``main()`` with the same words, and what arrives at the pipeline's constructor, at its ledgers,
at its call and at the writer is compared value by value. No value is a default, and no two of a command line are alike,
so that one which never arrives, or arrives in another's place, is seen. A flag of the reference's parser, or of ours,
that a case does not give is red.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

from ..model import Case, Counterparts, Stage, Step
from . import defaults
from .differences import reasons

CHECKPOINTS = "checkpoints:"  # in a word: the folder of the small checkpoints
_MEDIA = f"{CHECKPOINTS}/media"
Words = tuple[str, ...]
Uses = tuple[Words, ...]  # the words after a flag, for each time that it is given


def _file(name: str) -> str:
    return f"{CHECKPOINTS}/tiny-{{version}}{name}.safetensors"


# Flag → its uses in two command lines. ``{version}`` is that of the checkpoint.
_FILES: dict[str, tuple[Uses, Uses]] = {
    "--checkpoint-path": (((_file(""),),),) * 2,
    "--gemma-root": (((f"{CHECKPOINTS}/tiny-gemma",),), ((f"{CHECKPOINTS}/media/../tiny-gemma",),)),
    "--prompt": ((("a lynx on a frozen lake",),), (("two herons, and rain",),)),
    "--output-path": (((f"{CHECKPOINTS}/lynx.mp4",),), ((f"{CHECKPOINTS}/herons.mp4",),)),
}
_QUANTIZATION: dict[str, tuple[Uses, Uses]] = {"--quantization": ((("fp8-cast",),), ())}
_BASIC: dict[str, tuple[Uses, Uses]] = {
    **_FILES,
    **_QUANTIZATION,
    "--seed": ((("271",),), (("31",),)),
    "--height": ((("256",),), (("384",),)),
    "--width": ((("384",),), (("128",),)),
    "--num-frames": ((("17",),), (("25",),)),
    "--frame-rate": ((("12.3456789",),), (("29.97",),)),
    "--image": (
        ((f"{_MEDIA}/image-0.png", "0", "0.85", "21"), (f"{_MEDIA}/image-1.png", "16", "0.35", "6")),
        ((f"{_MEDIA}/image-1.png", "8", "0.95"),),  # without CRF
    ),
    "--lora": (
        ((_file("-lora"), "0.6"), (_file("-ic-lora"), "-0.45")),
        ((_file("-lora-f32"),), (_file("-lora"), "1.5"), (_file("-ic-lora-f32"), "0.05")),  # one without strength
    ),
    "--enhance-prompt": (((),), ()),
}
_STEPS: dict[str, tuple[Uses, Uses]] = {"--num-inference-steps": ((("11",),), (("13",),))}
_VIDEO: dict[str, tuple[Uses, Uses]] = {
    "--negative-prompt": ((("fog, mist",),), (("",),)),
    "--video-cfg-guidance-scale": ((("2.25",),), (("6.5",),)),
    "--video-stg-guidance-scale": ((("0.55",),), (("1.25",),)),
    "--video-rescale-scale": ((("0.3",),), (("0.8",),)),
    "--video-stg-blocks": ((("2", "0"),), (("1",),)),
    "--a2v-guidance-scale": ((("1.75",),), (("4.5",),)),
    "--video-skip-step": ((("2",),), (("4",),)),
}
_AUDIO: dict[str, tuple[Uses, Uses]] = {
    "--audio-cfg-guidance-scale": ((("5.5",),), (("8.25",),)),
    "--audio-stg-guidance-scale": ((("0.65",),), (("1.35",),)),
    "--audio-rescale-scale": ((("0.15",),), (("0.9",),)),
    "--audio-stg-blocks": ((("1", "2", "0"),), ((),)),
    "--v2a-guidance-scale": ((("2.75",),), (("3.5",),)),
    "--audio-skip-step": ((("3",),), (("5",),)),
}
_UPSAMPLER: dict[str, tuple[Uses, Uses]] = {
    "--spatial-upsampler-path": (
        ((_file("-upsampler-x2"),),),
        ((f"{_MEDIA}/../tiny-{{version}}-upsampler-x2.safetensors",),),
    )
}
_TWO_STAGES = {
    **_BASIC,
    **_STEPS,
    **_VIDEO,
    **_UPSAMPLER,
    "--distilled-lora": (((_file("-distilled-lora"), "0.7"),), ((_file("-distilled-lora-f32"),),)),
}
_DISTILLED = {"--distilled-checkpoint-path": _FILES["--checkpoint-path"], **_BASIC, **_UPSAMPLER}
del _DISTILLED["--checkpoint-path"]

# Recipe → its flags.
FLAGS: dict[str, dict[str, tuple[Uses, Uses]]] = {
    "distilled": _DISTILLED,
    "ti2vid_one_stage": {**_BASIC, **_STEPS, **_VIDEO, **_AUDIO},
    "ti2vid_two_stages": {**_TWO_STAGES, **_AUDIO},
    "ti2vid_two_stages_hq": {
        **_TWO_STAGES,
        **_AUDIO,
        "--distilled-lora-strength-stage-1": ((("0.2",),), (("0.75",),)),
        "--distilled-lora-strength-stage-2": ((("0.4",),), (("-0.1",),)),
    },
    "keyframe_interpolation": {**_TWO_STAGES, **_AUDIO},
    "ic_lora": {
        **_DISTILLED,
        "--video-conditioning": (
            ((f"{_MEDIA}/clip.mp4", "0.9"), (f"{_MEDIA}/../media/clip.mp4", "0.25")),
            ((f"{_MEDIA}/clip.mp4", "0.5"),),
        ),
        "--conditioning-attention-mask": (
            ((f"{_MEDIA}/clip.mp4", "0.33"), (f"{_MEDIA}/clip.mp4", "0.65")),  # the last counts
            (),
        ),
        "--skip-stage-2": (((),), ()),
    },
    "a2vid_two_stage": {
        **_TWO_STAGES,
        "--audio-path": (((f"{_MEDIA}/audio.wav",),), ((f"{_MEDIA}/clip.mp4",),)),
        "--audio-start-time": ((("0.125",),), (("0.0625",),)),
        "--audio-max-duration": ((("0.375",),), (("0.5",),)),
    },
    "retake": {
        **_FILES,
        **_QUANTIZATION,
        "--gemma-root": (_FILES["--gemma-root"][0],) * 2,  # the reference does not resolve it here
        "--seed": ((("271",),), (("31",),)),
        "--video-path": (((f"{_MEDIA}/clip.mp4",),),) * 2,
        "--start-time": ((("0.2",),), (("0.1",),)),
        "--end-time": ((("0.5",),), (("0.6",),)),
        "--loras": (((_file("-lora"), _file("-ic-lora")),), ((_file("-lora-f32"),),)),
    },
}
# Flags of the reference that have no effect there, and that ours therefore refuses.
REFUSED: dict[str, dict[str, tuple[Uses, Uses]]] = {
    "distilled": _STEPS,
    "ic_lora": _STEPS,
    "a2vid_two_stage": _AUDIO,
}

_DECODER = 2_241_152  # bytes of the video decoder's weights of tiny-2.0, in 16 bits
# Flags of ours alone → words, and what must arrive.
_OURS: dict[str, tuple[Uses, dict[str, Any]]] = {
    "--no-audio": (((),), {"settings.audio": False}),
    "--dtype": ((("float16",),), {"ledger.1.dtype": "float16"}),
    "--low-memory": (((),), {"settings.low_memory": True}),
    "--memory-limit": ((("2GB",),), {"settings.decode_budget": 2 * 10**9 - _DECODER}),
    "--noise": ((("torch",),), {"settings.noise": "TorchNoise"}),
    "--behaviour": ((("upstream",),), {"settings.behaviour": "upstream"}),
    "--tiling": ((("none",),), {"call.tiling_config": "in one piece"}),
    "--context": (
        ((f"{CHECKPOINTS}/kept.safetensors",),),
        {"settings.context_path": f"{CHECKPOINTS}/kept.safetensors"},
    ),
    "--codec": ((("hevc",),), {"write.encoding.codec": "hevc"}),
    "--crf": ((("18.5",),), {"write.encoding.crf": 18.5}),
    "--preset": ((("slow",),), {"write.encoding.preset": "slow"}),
    "--no-metadata": (((),), {"write.metadata": False}),
    "--placeholder": (((),), {"settings.placeholder": True}),
    "--cross-attn-scale": ((("0.8",),), {"settings.cross_attn_scale": 0.8}),
    "--early-layers-only": (((),), {"settings.early_layers_only": True}),
}
_VIDEO_GUIDANCE = {
    "cfg_scale": 6.5,
    "stg_scale": 1.25,
    "rescale_scale": 0.8,
    "stg_blocks.0": 1,
    "modality_scale": 4.5,
    "skip_step": 4,
}
_AUDIO_GUIDANCE = {
    "cfg_scale": 5.5,
    "stg_scale": 0.65,
    "rescale_scale": 0.15,
    "stg_blocks.count": 3,
    "stg_blocks.0": 1,
    "stg_blocks.1": 2,
    "stg_blocks.2": 0,
    "modality_scale": 2.75,
    "skip_step": 3,
}
OURS: dict[str, dict[str, tuple[Uses, dict[str, Any]]]] = {
    **dict.fromkeys(FLAGS, _OURS),
    "ti2vid_two_stages_hq": {**_OURS, "--noise": ((("torch",),), {**_OURS["--noise"][1], "call.noise_seed": -1})},
    "retake": {
        **_OURS,
        "--num-inference-steps": ((("13",),), {"call.num_inference_steps": 13}),
        "--negative-prompt": ((("fog",),), {"call.negative_prompt": "fog"}),
        **{
            flag: (uses[1], {f"call.video_guider_params.{field}": value})
            for (flag, uses), (field, value) in zip(list(_VIDEO.items())[1:], _VIDEO_GUIDANCE.items(), strict=True)
        },
        **{
            flag: (
                uses[0],
                {f"call.audio_guider_params.{k}": v for k, v in _AUDIO_GUIDANCE.items() if k.startswith(field)},
            )
            for (flag, uses), field in zip(
                _AUDIO.items(),
                ("cfg_scale", "stg_scale", "rescale_scale", "stg_blocks", "modality_scale", "skip_step"),
                strict=True,
            )
        },
        "--distilled": (((),), {"call.distilled": True}),
        "--keep-video": (((),), {"call.regenerate_video": False}),
        "--keep-audio": (((),), {"call.regenerate_audio": False}),
        "--enhance-prompt": (((),), {"call.enhance_prompt": True}),
    },
}
# The flags for the files of a checkpoint that is split.
PARTS = ("--transformer-path", "--text-encoder-path", "--video-vae-path", "--audio-vae-path")
OVERWRITE = "--overwrite"
# Flags of ours that say how many videos are made, by which processes, and what is shown meanwhile: nothing of them
# arrives at a pipeline.
AROUND = (
    *("--num-videos", "--prompts-file", "--parallel", "--hosts"),
    *("--preview", "--preview-every", "--quiet", "--json", "--yes"),
)
SETTINGS = ("--config", "--without")
# Flags that are given beside the settings of the first command line: they win, and what may be given several times
# replaces all that was given.
_CHANGED = ("--seed", "--image", "--loras", "--num-frames", "--video-stg-blocks")
# Settings that are left out of those of the first command line.
_LEFT_OUT = ("--quantization", "--conditioning-attention-mask")
TILING: Words = ("--tiling", "default")  # the reference's tiles
_REQUIRED = (
    *("--checkpoint-path", "--distilled-checkpoint-path", "--gemma-root", "--prompt", "--output-path"),
    *("--distilled-lora", "--spatial-upsampler-path", "--video-conditioning", "--audio-path"),
    *("--video-path", "--start-time", "--end-time"),
)


def words(uses: dict[str, Uses], version: str = "2.3") -> Words:
    """A command line of these flags, each as often as it is used."""
    given = (word for flag, times in uses.items() for use in times for word in (flag, *use))
    return tuple(word.replace("{version}", version) for word in given)


def _arrive(recipe: str, kind: str, argv: Words, ours: Words = (), **options: Any) -> Step:
    name = f"{recipe}.{kind}"
    kwargs = {"step": name, "recipe": recipe, "argv": argv}
    return Step(name, "arrived", kwargs, on_reference=options, on_ours={"more": ours})


def _of_recipe(recipe: str) -> Case:
    """Every flag at two values, those of ours alone, and those that are refused."""
    flags, own, refused = FLAGS[recipe], OURS[recipe], REFUSED.get(recipe, {})
    first, second = (words({flag: uses[i] for flag, uses in flags.items()}, "2.3") for i in (0, 1))
    steps = [_arrive(recipe, "first", first, TILING), _arrive(recipe, "second", second, TILING)]
    around = (*PARTS, OVERWRITE, *SETTINGS, *AROUND)
    given = {"recipe": recipe, "argv": first, "given": (*flags, *refused), "ours": (*own, *around)}
    steps.append(Step(f"{recipe}.flags", "flags", given))
    expected = {name: value for _, values in own.values() for name, value in values.items()}
    ledgers = 2 if "--distilled-lora" in flags or recipe == "ic_lora" else 1  # the transformer loaded in other ways
    expected |= {f"ledger.{number}.dtype": "float16" for number in range(1, ledgers + 1)}
    plain = words({flag: uses[1] for flag, uses in flags.items()}, "2.0")  # fp8 does not go with --cross-attn-scale
    more = words({flag: uses for flag, (uses, _) in own.items()})
    steps.append(_arrive(recipe, "ours", plain, more, stated=expected))
    steps.append(_in_parts(recipe, ledgers))
    steps.append(_from_settings(recipe))
    unnamed = words({flag: uses[0] for flag, uses in flags.items() if flag != "--output-path"})
    kwargs = {"step": f"{recipe}.existing", "recipe": recipe, "argv": unnamed}
    steps.append(Step(f"{recipe}.existing", "existing", kwargs))
    for flag, uses in refused.items():
        kwargs = {"recipe": recipe, "argv": first, "flag": words({flag: uses[0]})}
        steps.append(Step(f"{recipe}.refuses {flag}", "refused", kwargs))
    return Case(steps=tuple(steps), half=False)


def _in_parts(recipe: str, ledgers: int) -> Step:
    """A checkpoint in five files, each named after its flag, which the reference does not take."""
    flags = {flag: uses[0] for flag, uses in FLAGS[recipe].items() if flag != "--quantization"}
    whole = next(flag for flag in flags if flag.endswith("checkpoint-path"))
    source = words({whole: flags.pop(whole)}, "2.0")[1]
    files = {flag: f"{_name(flag)}.safetensors" for flag in (whole, *PARTS)}
    places = (f"init.{_name(whole)}", *(f"ledger.{number}.checkpoint_path" for number in range(1, ledgers + 1)))
    fields = {"checkpoint_path" if flag == whole else _name(flag): file for flag, file in files.items()}
    stated = {f"{place}.{name}": file for place in places for name, file in fields.items()}
    kwargs = {"recipe": recipe, "argv": words(flags, "2.0"), "source": source, "files": files}
    return Step(f"{recipe}.parts", "parts", kwargs, on_reference={"stated": stated})


def _from_settings(recipe: str) -> Step:
    """The settings that a run of the first command line records, read again with changes."""
    flags = {flag: uses[0] for flag, uses in FLAGS[recipe].items()}
    changed = {flag: FLAGS[recipe][flag][1] for flag in _CHANGED if flag in flags}
    left_out = tuple(flag for flag in _LEFT_OUT if flags.get(flag))
    theirs = {flag: uses for flag, uses in (flags | changed).items() if flag not in left_out}
    name = f"{recipe}.settings"
    return Step(
        name,
        "configured",
        {"step": name, "recipe": recipe},
        on_reference={"argv": words(theirs)},
        on_ours={
            "argv": (*words(flags), *TILING),
            "changed": (
                *words({"--output-path": flags["--output-path"], **changed}),
                "--without",
                *(flag.removeprefix("--") for flag in left_out),
            ),
        },
    )


def _several(recipe: str, count: int) -> Step:
    """The last of several videos: from the settings that it records, with the seed that it had."""
    flags = {flag: uses[0] for flag, uses in FLAGS[recipe].items()}
    output, seed = {"--output-path": flags["--output-path"]}, int(flags["--seed"][0][0])
    last = flags | {"--seed": ((str(seed + count - 1),),)}
    name = f"{recipe}.several"
    return Step(
        name,
        "configured",
        {"step": name, "recipe": recipe},
        on_reference={"argv": words(last)},
        on_ours={"argv": (*words(flags), *TILING, "--num-videos", str(count)), "changed": words(output)},
    )


def _name(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")


def _defaults() -> Case:
    """What is required alone, with a checkpoint of either version."""
    steps = []
    for recipe, flags in FLAGS.items():
        for version in ("2.0", "2.3"):
            required = {flag: uses[0][:1] for flag, uses in flags.items() if flag in _REQUIRED}
            steps.append(_arrive(recipe, version, words(required, version)))
    return Case(steps=tuple(steps), half=False)


def cases(config: dict[str, Any]) -> dict[str, Case]:
    recipes = {recipe: _of_recipe(recipe) for recipe in FLAGS}
    recipes["distilled"] = replace(recipes["distilled"], steps=(*recipes["distilled"].steps, _several("distilled", 3)))
    return {**recipes, "defaults": _defaults(), "python": defaults.case()}


@cache
def _different() -> dict[str, str]:
    return reasons(step.name for case in cases({}).values() for step in case.steps)


COMMAND_LINE = Stage(
    name="command_line",
    component=None,
    cases=cases,
    classes={
        name: Counterparts(f"parity.sides.torch.{file}:{name}", f"parity.sides.mlx_{file}:{name}")
        for file, names in {
            "command_line": ("arrived", "flags", "refused", "parts", "existing", "configured"),
            "defaults": ("arguments_of", "constant", "keys_of", "between_streams"),
        }.items()
        for name in names
    },
    configs=("any",),
    different=_different,
)
