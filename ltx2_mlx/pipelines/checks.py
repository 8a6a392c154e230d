"""What the arguments of a call must be, for the pipelines and for the command line alike.

A pipeline checks its call with ``check_call`` before it loads anything. The command line asks for the same problems
with the names of its flags, so that a plan knows them too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple

from ..config import TransformerConfig
from ..config.reading import cut, short
from ..diffusion.guiders import MultiModalGuiderFactory, MultiModalGuiderParams
from ..diffusion.schedulers import MAX_STEPS, LTX2Scheduler
from ..errors import InputError
from ..loading.checkpoint import Checkpoint, read_checkpoint
from ..types import AudioLatentShape, ImageConditioningInput, VideoLatentShape, VideoPixelShape
from .ledger import ModelLedger

Named = Callable[[str], str]
MAX_TOKENS = 1 << 20  # of a video, 3840 x 2176 pixels for 1025 frames; no machine denoises more
MAX_SECONDS = 1_000_000.0
MAX_PROMPT = 100_000  # characters; 1,024 tokens are kept of them, and to find those of 10 million takes minutes


class Within(NamedTuple):
    """The range of a number, ends included. whole: an integer."""

    low: float
    high: float
    whole: bool = False


_SCALE = Within(-100.0, 100.0)
_STRENGTH = Within(0.0, 1.0)
_NUMBERS = {
    "seed": Within(-(2**63), 2**63 - 1, whole=True),
    "frame_rate": Within(0.001, 1000.0),
    "num_inference_steps": Within(1, MAX_STEPS, whole=True),
    "conditioning_attention_strength": _STRENGTH,
    "distilled_lora_strength_stage_1": _SCALE,
    "distilled_lora_strength_stage_2": _SCALE,
    "cross_attn_scale": _SCALE,
    "audio_start_time": Within(0.0, MAX_SECONDS),
    "audio_max_duration": Within(0.001, MAX_SECONDS),
    "start_time": Within(0.0, MAX_SECONDS),
    "end_time": Within(0.0, MAX_SECONDS),
}
_GUIDANCE = {
    "cfg_scale": _SCALE,
    "stg_scale": _SCALE,
    "rescale_scale": _STRENGTH,
    "modality_scale": _SCALE,
    "skip_step": Within(0, MAX_STEPS, whole=True),
}
_OPTIONAL = ("audio_max_duration", "video_guider_params", "audio_guider_params")
GUIDANCE = ("video_guider_params", "audio_guider_params")


def check_call(ledger: ModelLedger, **arguments: Any) -> None:
    """Raises InputError, in one line, for arguments of a pipeline's call that cannot be used."""
    found = list(problems(arguments))
    if not found and not ledger.settings.placeholder and any(map(_perturbed, _guidance(arguments).values())):
        found += block_problems(read_checkpoint(ledger.checkpoint_path), arguments)
    if found:
        raise InputError("; ".join(found))


def problems(arguments: Mapping[str, Any], named: Named = str) -> Iterator[str]:
    """A sentence for each argument that cannot be used. named: how a sentence names an argument, or its field.

    two_stages, tokens: of the call's pipeline, no arguments of its own: whether the first of two stages has half the
    size, and whether the schedule is shifted by the number of tokens.
    """
    for name, value in arguments.items():
        if value is None and name in _OPTIONAL:
            continue
        if name in _NUMBERS:
            yield from _number(named(name), value, _NUMBERS[name])
        elif name in ("prompt", "negative_prompt"):
            yield from _text(named(name), value)
        elif name in ("video_conditioning", "conditioning_attention_mask") and isinstance(value, Sequence):
            for path, strength in value:
                yield from _number(f"{named(name)} {path}: the strength", strength, _STRENGTH)
    for name, params in _guidance(arguments).items():
        yield from _guidance_problems(name, params, named)
    if "num_frames" in arguments:
        yield from _shape_problems(arguments, named)
    for step in (_image_problems, _schedule_problems):
        yield from step(arguments, named)


def _number(name: str, value: Any, within: Within) -> Iterator[str]:
    right = isinstance(value, Integral if within.whole else Real) and not isinstance(value, bool)
    if not right:
        yield f"{name} is {short(value)}, expected a {'whole ' if within.whole else ''}number"
    elif not within.low <= value <= within.high:  # NaN as well
        said = f"{float(value):g}" if not within.whole else _digits(int(value))
        yield f"{name} is {said}, expected {_digits(within.low)} to {_digits(within.high)}"


def _digits(value: float) -> str:
    if isinstance(value, float):
        return f"{value:g}" if abs(value) < 1e6 else f"{value:,.0f}"
    return str(value) if abs(value) < 10**20 else "a number of more than 20 digits"


def _text(name: str, value: Any) -> Iterator[str]:
    if not isinstance(value, str):
        yield f"{name} is {short(value)}, expected a text"
        return
    if len(value) > MAX_PROMPT:
        yield f"{name} has {len(value):,} characters, expected {MAX_PROMPT:,} at most"
    elif at := not_utf8(value):
        yield f"{name} is not UTF-8 (at character {at}): write it again, or convert it"


def not_utf8(text: str) -> int:
    """The number, from 1 on, of the first character that UTF-8 cannot hold; 0 where it holds all."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start + 1
    return 0


# ---- sizes --------------------------------------------------------------------------------------------------------


def _shape_problems(arguments: Mapping[str, Any], named: Named) -> Iterator[str]:
    names = ("height", "width", "num_frames")
    sizes = [arguments[name] for name in names]
    wrong = [text for name, size in zip(names, sizes, strict=True) for text in _number(named(name), size, _SIZE)]
    if wrong:
        yield from wrong
        return
    try:
        assert_resolution(int(sizes[0]), int(sizes[1]), int(sizes[2]), bool(arguments["two_stages"]))
    except InputError as error:
        yield str(error)
        return
    if not any(_number("", arguments["frame_rate"], _NUMBERS["frame_rate"])):
        yield from _length_problems(int(sizes[2]), float(arguments["frame_rate"]), named)


_SIZE = Within(-(2**63), 2**63 - 1, whole=True)  # the rest is said with the nearest size that works


def _length_problems(frames: int, rate: float, named: Named) -> Iterator[str]:
    if AudioLatentShape.from_duration(1, frames / rate).frames < 1:
        yield (
            f"{frames} frames at {named('frame_rate')} {rate:g} last {frames / rate:.3f} s, less than the 0.02 s that "
            "audio needs: give more frames, or fewer a second"
        )


def assert_resolution(height: int, width: int, num_frames: int, is_two_stage: bool) -> None:
    """Raises InputError for a size that the networks cannot make, with the nearest that they can."""
    step = 64 if is_two_stage else 32
    found = []
    if height % step or width % step or min(height, width) < 64:
        near = [max(64, round(size / step) * step) for size in (height, width)]
        found.append(
            f"height x width is {height}x{width}, expected multiples of {step} from 64 on: use {near[0]}x{near[1]}"
        )
    if num_frames < 1 or num_frames % 8 != 1:
        near_frames = max(0, round((num_frames - 1) / 8)) * 8 + 1
        found.append(f"the number of frames is {num_frames}, expected 8k + 1: use {near_frames}")
    if not found and (tokens := (height // 32) * (width // 32) * ((num_frames - 1) // 8 + 1)) > MAX_TOKENS:
        found.append(
            f"{num_frames} frames of {height}x{width} are {tokens:,} tokens, expected {MAX_TOKENS:,} at most: make a "
            "smaller or shorter video"
        )
    if found:
        raise InputError("; ".join(found))


def _image_problems(arguments: Mapping[str, Any], named: Named) -> Iterator[str]:
    if not isinstance(frames := arguments.get("num_frames"), Integral):
        return
    images: Sequence[ImageConditioningInput] = arguments.get("images", ())
    for image in images:
        whole = not any(_number("", image.frame_idx, _SIZE))
        if not whole or not 0 <= image.frame_idx < int(frames):
            last = int(frames) - 1
            yield f"{image.path}: frame {short(image.frame_idx)} is not in the video, expected 0 to {last}"
        yield from _number(f"{image.path}: the strength", image.strength, _STRENGTH)
        if image.crf is not None and any(_number("", image.crf, Within(0, 51, whole=True))):
            yield f"{image.path}: CRF {short(image.crf)}, expected 0 to 51"


# ---- denoising ----------------------------------------------------------------------------------------------------


def _guidance(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {name: arguments[name] for name in GUIDANCE if arguments.get(name) is not None}


def _each(params: Any) -> list[MultiModalGuiderParams]:
    return [params for _, params in params.params_by_sigma] if isinstance(params, MultiModalGuiderFactory) else [params]


def _perturbed(params: Any) -> bool:
    return any(not math.isclose(each.stg_scale, 0.0) for each in _each(params))


def _guidance_problems(argument: str, params: Any, named: Named) -> Iterator[str]:
    for each in _each(params):
        if not isinstance(each, MultiModalGuiderParams):
            yield f"{named(argument)} is {short(each)}, expected MultiModalGuiderParams"
            return
        for field, within in _GUIDANCE.items():
            yield from _number(named(f"{argument}.{field}"), getattr(each, field), within)


def block_problems(checkpoint: Checkpoint, arguments: Mapping[str, Any], named: Named = str) -> Iterator[str]:
    """A sentence for each list of blocks that the checkpoint's transformer does not have. Where their guidance is off,
    nobody asks for them."""
    layers = TransformerConfig.from_metadata(checkpoint.config).num_layers
    for name, params in _guidance(arguments).items():
        blocks = [block for each in _each(params) if _perturbed(each) for block in each.stg_blocks or ()]
        if wrong := [block for block in blocks if not 0 <= block < layers]:
            yield f"{named(f'{name}.stg_blocks')} {cut(str(wrong[0]), 30)}: the model has blocks 0 to {layers - 1}"


def _schedule_problems(arguments: Mapping[str, Any], named: Named) -> Iterator[str]:
    """The schedule of the first stage, where it cannot be made."""
    steps = arguments.get("num_inference_steps")
    if steps is None or any(_number("", steps, _NUMBERS["num_inference_steps"])):
        return
    try:
        if not arguments.get("tokens"):
            LTX2Scheduler().execute(int(steps))
        elif not any(_shape_problems(arguments, named)):
            LTX2Scheduler().execute(int(steps), first_stage_tokens(arguments))
    except InputError as error:
        yield f"{named('num_inference_steps')} {steps}: {error}"


def first_stage_tokens(arguments: Mapping[str, Any]) -> int:
    """Tokens of the first of two stages, which has half the height and width."""
    height, width, frames = (int(arguments[name]) for name in ("height", "width", "num_frames"))
    return VideoLatentShape.from_pixel_shape(VideoPixelShape(1, frames, height // 2, width // 2, 1.0)).token_count()
