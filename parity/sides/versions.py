"""The releases of ltx-core after the one that everything here is declared of, and what each of them changed.

``pip install`` gives 1.0.0. A newer one, from its repository, is the reference as it is: where its classes answer to
the names of 1.0.0. What it computes otherwise is in ``CHANGES``, and nowhere else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

PACKAGE, DECLARED = "ltx-core", "1.0.0"
RELEASES = (DECLARED, "1.1.0", "1.1.1", "1.1.2", "1.1.3", "1.1.4", "1.1.5", "1.1.6", "1.1.7", "1.2.0")


@dataclass(frozen=True)
class Change:
    """Something that is otherwise from a release on. stages: those whose values it may move."""

    since: str
    stages: tuple[str, ...]
    what: str


CHANGES = (
    Change("1.1.0", ("vocoder", "decode_audio"), "LTX-2.3's vocoder computes in float32, whatever its weights are in"),
    Change("1.1.2", ("denoising",), "a keyframe stands at [t, t + 1) frames, not at [t, t + 8)"),
    Change(
        "1.1.3", ("denoising", "patchifiers"), "positions of video tokens are float32, no longer the weights' dtype"
    ),
    Change("1.1.3", ("lora", "transformer_lora"), "the products of several LoRAs are added up before they are rounded"),
    Change("1.1.3", ("embeddings_processor",), "connectors take a batch, and sort tokens; their results are the same"),
    Change("1.1.3", ("files",), "frames are written as BT.709, by the package's own conversion"),
    Change(
        "1.1.4",
        ("transformer", "transformer_lora", "transformer_fp8"),
        "attention between video and audio is scaled and shifted by each stream's own timesteps, token by token, and "
        "gated by the other stream's noise level; 1.0.0 took that for all three",
    ),
    Change("1.1.6", ("denoising",), "the guider computes in float32, and a condition leaves the first latent alone"),
    Change("1.2.0", ("denoising", "sampling"), "a frozen stream has the noise level 0; LTX-2.5 takes ancestral steps"),
    Change("1.2.0", ("video_encoder", "video_decoder"), "masks of tiles are float32, and the default tiles are larger"),
    Change("1.2.0", ("tokenizer", "gemma"), "one BOS begins a prompt, always; Gemma 4 goes with LTX-2.5"),
    Change(
        "1.2.0", ("command_line",), "flags for files in parts, and for LTX-2.5; images are compressed by CRF 18 there"
    ),
)


def installed() -> str:
    """The version of ltx-core that is installed; "" for none."""
    try:
        return version(PACKAGE)
    except PackageNotFoundError:
        return ""


def other() -> str:
    """The installed version where it is another than what is declared; "" where it is not, or none is installed."""
    found = installed()
    return found if found != DECLARED else ""


def changes(found: str, stages: set[str]) -> list[Change]:
    """What a version has otherwise than 1.0.0 in these stages."""
    return [change for change in CHANGES if _number(change.since) <= _number(found) and stages & {*change.stages}]


def about(found: str) -> str:
    """One sentence on a version that is not 1.0.0: how far it is known."""
    if found in RELEASES:
        return f"{PACKAGE} {found} is the reference; everything is declared of {DECLARED}."
    last = max((r for r in RELEASES if _number(r) <= _number(found)), key=_number, default="")
    known = f"the changes up to {last} are known, and what came after is not" if last else "nothing is known of it"
    return f"{PACKAGE} {found} is the reference, and it is a version that is not known here: {known}."


def _number(text: str) -> tuple[int, ...]:
    """``1.1.4`` of ``1.1.4``, ``1.1.4.dev2`` and ``1.1.4+local``."""
    release = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in release[0].split(".")) if release else ()
