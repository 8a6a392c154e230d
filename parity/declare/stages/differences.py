"""Values that ours has otherwise than the reference on purpose, each with the reason.

Both sides put "as declared" in the place of such a value where it is what the table says, so that a value which goes
away from the table on either side is red, and so is a difference that is not in it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from typing import Any, Literal

AS_DECLARED = "as declared"


class Without(Enum):
    """The value of a side that has none."""

    ABSENT = "nothing"
    ANY = "whatever it is"


ABSENT, ANY = Without.ABSENT, Without.ANY


@dataclass(frozen=True)
class Difference:
    """One value, in steps and under a name that match two globs, on both sides, and why they differ.

    ABSENT: that side has no such value, and neither side then shows one. ANY: whatever that side has.
    """

    steps: str
    value: str
    reference: Any
    ours: Any
    reason: str


_RATE = "the writer's rate: cut to a whole number, pictures and audio drift apart"
_TEXT = "a text of our own: nothing is copied from the reference"
_FORGOTTEN = "the reference's main() takes the flag and forgets it"
_OURS = "an argument of ours alone"
_VERSION = "the defaults follow the checkpoint's version, as in all other pipelines; the reference always takes 2.3's"
_IMAGE_CRF = "by the checkpoint's version: 33, and 18 from 2.4 on, as upstream has it"
_WITH_VERSION = "a default that follows the checkpoint's version as well, and is the reference's constant before 2.4"
_TILES = "tiles are as large as half the memory allows; the frames are those of any other tiles"
_COLOURS = "BT.709, as players take HD to be, and marked so; the reference's colours are BT.601's, and not marked"
_STORED = "as a viewer shows it; the reference takes the pixels as they are stored"
_UNREADABLE = "the reference takes its first three columns for the colours, and fails"
DEFAULT_TILES = "512 pixels over 64, 64 frames over 24"

DIFFERENCES: tuple[Difference, ...] = (
    Difference("*", "write.chunks", ANY, None, "the length of a progress bar: ours counts as it writes"),
    *(
        Difference(f"{name}.{kind}", "call.enhance_prompt", False, True, _FORGOTTEN)
        for kind in ("first", "settings")
        for name in (
            "ti2vid_one_stage",
            "ti2vid_two_stages",
            "ti2vid_two_stages_hq",
            "keyframe_interpolation",
            "ic_lora",
        )
    ),
    *(
        Difference("ti2vid_one_stage.*", "call.tiling_config", ABSENT, tiles, _TILES)
        for tiles in ("chosen", DEFAULT_TILES)
    ),
    Difference("*.2.?", "call.tiling_config", DEFAULT_TILES, "chosen", _TILES),
    Difference("*", "call.negative_prompt", "1078 characters, sha256 3b57", "298 characters, sha256 76fa", _TEXT),
    Difference("ti2vid_two_stages_hq.*", "call.noise_seed", ABSENT, None, f"{_OURS}: the noise follows the seed"),
    Difference(
        "a2vid_two_stage.*", "call.audio_max_duration", 121 / 24.0, None, "the same length: ours works it out later"
    ),
    Difference("a2vid_two_stage.2.0", "call.num_inference_steps", 30, 40, _VERSION),
    Difference("a2vid_two_stage.2.0", "call.video_guider_params.stg_blocks.0", 28, 29, _VERSION),
    Difference(
        "retake.*", "*loras.?.strength", ABSENT, 1.0, "the reference's main() passes bare names, and then stops"
    ),
    Difference(
        "python.tokenizer.LTXVGemmaTokenizer.__init__", "max_length", 256, 1024, "what the pipelines always use"
    ),
    Difference("python.vocoder.UpSample1d.__init__", "kernel_size", None, 12, "what None means for a ratio of 2"),
    Difference("python.types.ImageConditioningInput.__new__", "crf", 33, None, _IMAGE_CRF),
    *(
        Difference("python.LTX_2*_PARAMS", f"is.{name}", ABSENT, value, _WITH_VERSION)
        for name, value in (("image_crf", 33), ("negative_prompt", "298 characters, sha256 76fa"))
    ),
    *(
        Difference("python.conv.CausalConv3d.__init__", part, theirs, own, "one stride for all axes, written out")
        for part, theirs, own in (("stride", 1, ABSENT), ("stride.count", ABSENT, 3), ("stride.?", ABSENT, 1))
    ),
    Difference("video.a cut rate", "video.rate", "29", "30000/1001", _RATE),
    Difference("video.a cut rate", "video.length", 0.31, 0.3, _RATE),
    *(
        Difference(f"{steps}.*", f"video.{value}", 2, 1, _COLOURS)
        for steps in ("video", "audio")
        for value in ("matrix", "primaries", "transfer")
    ),
    *(Difference(f"{steps}.*", "video.range", 0, 1, _COLOURS) for steps in ("video", "audio")),
    *(
        Difference("*", f"write.{name}", ABSENT, value, f"{_OURS}: how the file is written")
        for name, value in {
            "encoding.codec": "h264",
            "encoding.crf": None,
            "encoding.preset": None,
            "metadata": True,
        }.items()
    ),
    Difference("*.existing", "plain", True, False, "what exists is not lost by mistake"),
    Difference("*.existing", "--overwrite", ABSENT, True, f"{_OURS}: what exists is to be replaced"),
    # Media as a viewer shows them: see sides/odd_media.py. Size, and the colours of the four corners.
    *(
        Difference(f"odd.{kind}", "seen", f"96x64: red green over {stored}", shown, f"{why}: {_STORED}")
        for kind, stored, shown, why in (
            ("turned by 90°", "blue grey", "64x96: blue red over grey green", "EXIF data turn it"),
            ("mirrored", "blue grey", "96x64: green red over grey blue", "EXIF data turn it"),
            ("transparent", "blue grey", "96x64: white white over blue grey", "transparent, on white"),
            ("transparent clip", "blue grey", "96x64: white white over blue grey", "transparent, on white"),
            ("profile", "blue grey", "96x64: green red over blue grey", "a colour profile, in sRGB"),
            ("turned clip", "blue grey", "64x96: blue red over grey green", "its display matrix turns it"),
            ("wide pixels", "blue grey", "128x64: red green over blue grey", "pixels of 4:3"),
        )
    ),
    *(
        Difference(f"odd.{kind}", "seen", "no picture: 64 x 3 numbers", shown, f"one channel: {_UNREADABLE}")
        for kind, shown in (
            ("grey", "96x64: green grey over black grey"),
            ("palette", "96x64: red green over blue grey"),
            ("16 bits", "96x64: black black over grey grey"),
        )
    ),
    Difference(
        "odd.CMYK",
        "seen",
        "96x64: green grey over red green",
        "96x64: red green over blue grey",
        "inks: the reference takes cyan, magenta and yellow for red, green and blue",
    ),
    Difference("odd.turned clip", "stated", "8 of 96x64", "8 of 64x96", f"its display matrix turns it: {_STORED}"),
    Difference("odd.wide pixels", "stated", "8 of 96x64", "8 of 128x64", f"pixels of 4:3: {_STORED}"),
    Difference("odd.edit list", "stated", "8 of 96x64", "5 of 96x64", "frames that an edit list hides are not counted"),
    Difference("odd.cover", "error", "TypeError", "MediaError", "a cover is no video: ours says so"),
    Difference("odd.heard.six channels", "channels", 6, 2, "mixed down to stereo: the audio VAE takes no more"),
    Difference("odd.heard.8 bits", "mean", "1.0", "0.0", "centred on 0, as all other samples are"),
    Difference("odd.heard.late", "begins", "0.0 s", "0.5 s", "audio stays beside its picture: silence comes before it"),
    Difference(
        "odd.heard.codec's delay",
        "pitch",
        "2520 Hz",
        "2620 Hz",
        "the window counts from the first sample, and not from the codec's delay before it",
    ),
    *(
        Difference(step, value, *sides, why)
        for step, own, why in (
            (
                "odd.heard.no duration",
                {"channels": 1, "mean": "0.0", "begins": "0.0 s", "pitch": "400 Hz"},
                "a file that states no duration is read to its end; the reference stops",
            ),
            ("odd.rate.37800", {"rate": 44100}, "a rate that AAC does not take is resampled; the reference stops"),
            ("odd.rate.192000", {"rate": 96000}, "a rate that AAC does not take is resampled; the reference stops"),
        )
        for value, sides in (
            ("error", ("ArgumentError" if "rate" in step else "TypeError", ABSENT)),
            *((name, (ABSENT, found)) for name, found in own.items()),
        )
    ),
    *(
        Difference("*", f"settings.{name}", ABSENT, value, f"{_OURS}: how it runs")
        for name, value in {
            "noise": "Generator",
            "contexts": 0,
            "context_path": None,
            "preview": None,
            "kept": None,
            "low_memory": False,
            "decode_budget": None,
            "audio": True,
            "placeholder": False,
            "behaviour": "1.0.0",
            "early_layers_only": False,
            "cross_attn_scale": 1.0,
            "ranks": None,
            "parallel": "tensor",
        }.items()
    ),
)


def declared(side: Literal["reference", "ours"], step: str, name: str, value: Any) -> Difference | None:
    """The difference that a value of one side is, where it is as the table says."""
    for difference in _of_step(step):
        if fnmatchcase(name, difference.value) and getattr(difference, side) in (value, ANY):
            return difference
    return None


@functools.cache
def _of_step(step: str) -> list[Difference]:
    return [difference for difference in DIFFERENCES if fnmatchcase(step, difference.steps)]


def reasons(steps: Iterable[str]) -> dict[str, str]:
    """Step and value → why it differs, for the differences that these steps can have."""
    names = tuple(steps)
    chosen = (d for d in DIFFERENCES if any(fnmatchcase(name, d.steps) for name in names))
    return {f"{d.steps}.{d.value}": d.reason for d in chosen}


def table() -> str:
    """All differences as Markdown, those of one reason in one row."""
    lines = ["| where | value | reference | ours | why |", "|---|---|---|---|---|"]
    for reason in dict.fromkeys(d.reason for d in DIFFERENCES):
        same = [d for d in DIFFERENCES if d.reason == reason]
        cells = [{f"`{d.steps}`": None for d in same}, {f"`{d.value}`": None for d in same}]
        cells += [{_said(d.reference): None for d in same}, {_said(d.ours): None for d in same}]
        lines.append(f"| {' | '.join(', '.join(cell) for cell in cells)} | {reason} |")
    return "\n".join(lines)


def _said(value: Any) -> str:
    return value.value if isinstance(value, Without) else f"{value:.4g}" if isinstance(value, float) else str(value)
