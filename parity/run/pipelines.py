"""The pipelines end to end: the reference, then ours, and every recorded tensor compared.

Free-running: nothing is passed on but the noise of bfloat16. So in float32 the tolerances are what rounding grows to
over a run, and in bfloat16 ours is measured with the reference's distance from itself (see ``reference.pipelines``,
twin).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from math import inf, isnan, nan

import numpy as np

from ..declare.inputs import FIXTURES, GEMMA, seeded
from ..declare.model import Files, Pipeline
from ..declare.stages import pipelines
from ..judge import device, metrics, tolerance
from ..judge.results import Item, PipelineRow
from ..sides.mlx_pipelines import run_pipeline
from ..tap.trace import Tensor
from ..tap.watch import NUMBER, TEXT, Watched
from .arguments import Arguments
from .moved import known

# Integer and layout work, and what is one float32 multiplication: equal to the last bit. So is all that is no tensor.
EXACT = ("*.mask", "*.positions", "*.timesteps", "*.attention", "*.attention_mask", "*.sigma", "*.sigmas")
# One number in ours where the reference has one for each token, or none of the axes.
SHARED = ("*.timesteps", "*.sigma", "*.noise_scale")


def select(stage: str = "*", config: str = "*") -> list[tuple[Pipeline, str]]:
    """The cells (pipeline, config) that match two globs; ``pipelines`` stands for all pipelines."""
    return [
        (p, c)
        for p in pipelines().values()
        for c in p.configs
        if (fnmatchcase(p.name, stage) or fnmatchcase("pipelines", stage)) and fnmatchcase(c, config)
    ]


def files(config: str, dtype: str) -> Files:
    """The tiny files of ``config``. A LoRA's product is rounded to the dtype of its file, so float32 runs have float32
    files of the same values."""
    suffix = "-f32" if dtype == "float32" else ""
    lora, distilled, in_context = (
        FIXTURES / f"{config}-{name}{suffix}.safetensors" for name in ("lora", "distilled-lora", "ic-lora")
    )
    media = FIXTURES / "media"
    return Files(
        FIXTURES / f"{config}.safetensors",
        FIXTURES / f"{config}-upsampler-x2.safetensors",
        GEMMA,
        lora=lora,
        distilled_lora=distilled,
        ic_lora=in_context,
        images=(media / "image-0.png", media / "image-1.png"),
        clips=(media / "clip.mp4", media / "clip-1.mp4"),
        audios=(media / "audio.wav", media / "audio-1.wav"),
        variant=Pipeline.configs.index(config),
    )


def run(pipeline: Pipeline, config: str, lanes: str, progress: Callable[[str], None]) -> list[PipelineRow]:
    """Both sides in float32 (lane A or C), and with one of the configs in bfloat16 (lane B)."""
    rows = []
    dtypes = {"float32": "AC", "bfloat16": "B" if config == pipeline.half else ""}
    for dtype in [dtype for dtype, of in dtypes.items() if set(of) & set(lanes)]:
        progress(f"{pipeline.name} {config}: {dtype}")
        rows.append(Run(pipeline, config, dtype).judged())
    family = [other for other in pipelines().values() if other.cls == pipeline.cls]
    if "A" in lanes and (pipeline, config) == (family[0], pipeline.configs[0]):
        progress(f"{pipeline.name} {config}: arguments")
        decide(rows[0], arguments(family))
    return rows


def arguments(family: list[Pipeline]) -> list[Item]:
    """What the arguments of pipelines of one class move, an item for each. It is the same for every seed of a run."""
    with seeded(0):
        rule = argument_rule(family)
        rule.moved = known(family, rule.given)
        return rule.items()


def argument_rule(family: list[Pipeline]) -> Arguments:
    """The rule itself, which knows nothing yet of what moves something."""
    from ..sides.torch import pipelines as reference

    chosen = [files(config, "float32") for config in family[0].configs]

    def differs(name: str, before: Tensor, after: Tensor | None) -> bool:
        return _compare(name, before, after, _limit(name, before, None)).verdict != "pass"

    def record(pipeline: Pipeline, into: Watched) -> Watched:
        return reference.run(pipeline, "float32", chosen[0], recording=into)

    return Arguments(family, chosen, record, differs)


class Run:
    """The reference's run of a pipeline, beside which ours runs as often as it is asked for."""

    def __init__(self, pipeline: Pipeline, config: str, dtype: str):
        from ..sides.torch import pipelines as reference  # slow to import, and no stage needs it

        self.pipeline, self.config, self.dtype, self.files = pipeline, config, dtype, files(config, dtype)
        self.theirs = reference.run(pipeline, dtype, self.files)
        self.twin = reference.run(pipeline, dtype, self.files, twin=True) if dtype == "bfloat16" else None

        self.raised: Exception | None = None  # by ours, the last time

    def judged(self) -> PipelineRow:
        ours = run_pipeline(self.pipeline, self.dtype, self.files, self.theirs.noise)
        self.raised = ours.raised
        return judge(PipelineRow(self.pipeline.name, self.config, self.dtype), self.theirs, ours, self.twin)


def judge(row: PipelineRow, theirs: Watched, ours: Watched, twin: Watched | None = None) -> PipelineRow:
    """Compare item by item, in the reference's order: how far the results are apart, and which came apart first."""
    for name, reference in theirs.items.items():
        row.details.append(_compare(name, reference, ours.items.get(name), _limit(name, reference, twin)))
    extra = [name for name in ours.items if name not in theirs.items]
    row.details += [Item(name, verdict="invalid", why="the reference has no such tensor") for name in extra]
    if at_fault := device.current().faults({row.dtype, "float32"}):
        row.details = [_excused(item, at_fault[0]) for item in row.details]
    if ours.error:
        row.details.append(Item("run", verdict="invalid", why=ours.error))
    if not theirs.items:
        row.details.append(Item("run", verdict="invalid", why="the reference has no tensor to compare by"))
    decide(row)
    if row.verdict == "missing" and ours.error:
        row.verdict, row.why = "invalid", ours.error
    row.steps = sum(fnmatchcase(name, "x0.???.video") for name in theirs.items)
    row.seconds, row.seconds_reference = ours.seconds, theirs.seconds
    _measure(row, theirs.items, ours.items, twin.items if twin else {})
    return row


def _excused(item: Item, measure: device.Measure) -> Item:
    """What is too far off where the device itself is."""
    if item.verdict != "diverged":
        return item
    return replace(item, verdict="inconclusive", why=f"{item.why}, but {measure.sentence}")


def decide(row: PipelineRow, more: Sequence[Item] = ()) -> None:
    """The verdict of a row is that of its first item that does not pass."""
    row.details += more
    if failed := [item for item in row.details if item.verdict != "pass"]:
        row.first, row.verdict, row.why = failed[0].name, failed[0].verdict, failed[0].why


def _limit(name: str, reference: Tensor, twin: Watched | None) -> float:
    if reference.dtype in (NUMBER, TEXT) or any(fnmatchcase(name, pattern) for pattern in EXACT):
        return 0.0
    if name == "frames":
        return tolerance.PIXELS if twin is None else tolerance.NOISE
    if twin is None:
        if fnmatchcase(name, "noise.*"):
            return tolerance.DRAWS
        return tolerance.WAVEFORM if name == "waveform" else tolerance.RUN
    other = twin.items.get(name)
    if other is None or other.values.shape != reference.values.shape or not other.values.size:
        return nan
    apart = relative(other, reference)
    if apart > tolerance.RUN_HALF_MOST / tolerance.K:
        return inf
    return min(max(tolerance.K_FREE * apart, tolerance.RUN_HALF), tolerance.RUN_HALF_MOST)


def _compare(name: str, reference: Tensor, ours: Tensor | None, limit: float) -> Item:
    """Relative root mean square, but for the largest error of a float32 waveform, and for frames."""
    if ours is None:
        return Item(name, verdict="missing", why="ours has no such tensor")
    reference, ours = _number(reference), _number(ours)
    ours = _spread(name, ours, reference)
    if why := _unlike(ours, reference) or _unjudgeable(limit):
        return Item(name, verdict="invalid", why=why)
    if name == "frames" and limit == tolerance.PIXELS:
        return _pixels(name, reference.values, ours.values)
    what, error = "relative error", 0.0
    if name == "frames":
        what, error = "noise", 10 ** (-psnr(ours.values, reference.values) / 20)
    elif limit == 0.0 or (name == "waveform" and limit == tolerance.WAVEFORM):
        what, error = "largest error", largest(ours, reference)
    else:
        error = relative(ours, reference)
    if error <= limit:
        return Item(name, error, limit)
    return Item(name, error, limit, "diverged", f"{what} {error:.2g}, {limit:.2g} is allowed")


def _unlike(ours: Tensor, reference: Tensor) -> str:
    """Why two tensors cannot be compared, if so."""
    if ours.values.shape != reference.values.shape:
        if TEXT in (ours.dtype, reference.dtype):
            return f"{_words(ours)}, the reference has {_words(reference)}"
        return f"shape {ours.values.shape}, the reference has {reference.values.shape}"
    if not reference.values.size:
        return "an empty tensor"
    counted = reference.dtype == "int64" and ours.dtype == "int32"  # MLX counts in int32
    if ours.dtype != reference.dtype and not counted and NUMBER not in (ours.dtype, reference.dtype):
        return f"dtype {ours.dtype}, the reference has {reference.dtype}"
    for whose, tensor in (("the reference has ", reference), ("", ours)):
        if fault := metrics.fault(tensor.values):
            return whose + fault
    return ""


def _unjudgeable(limit: float) -> str:
    if isnan(limit):
        return "the reference's second run has no such tensor"
    if limit > tolerance.RUN_HALF_MOST:
        most = tolerance.RUN_HALF_MOST / tolerance.K
        return f"the reference is further than {most:.2g} from itself, and can judge nothing"
    return ""


def _words(tensor: Tensor) -> str:
    return repr(tensor.values.tobytes().decode()) if tensor.dtype == TEXT else str(tensor.values)


def _number(tensor: Tensor) -> Tensor:
    """A float64 without axes in float32: the reference's noise level between two steps, which is rounded in use."""
    if tensor.values.ndim or tensor.dtype != "float64":
        return tensor
    return Tensor(tensor.values.astype(np.float32), "float32")


def _spread(name: str, ours: Tensor, reference: Tensor) -> Tensor:
    """What all tokens share is one number in ours, and one for each of them in the reference."""
    if ours.values.size == 1 and reference.values.size and any(fnmatchcase(name, pattern) for pattern in SHARED):
        return Tensor(np.full(reference.values.shape, ours.values.item(), ours.values.dtype), ours.dtype)
    return ours


def _pixels(name: str, reference: np.ndarray, ours: np.ndarray) -> Item:
    """Truncation turns the least difference into a step of 1, seldom. More than 1 is never rounding."""
    one, more = off(ours, reference)
    why = f"{more} pixels off by more than 1, {one:.1e} of all by 1 ({tolerance.PIXELS:.0e} is allowed)"
    passed = not more and one <= tolerance.PIXELS
    return Item(name, one, tolerance.PIXELS) if passed else Item(name, one, tolerance.PIXELS, "diverged", why)


def _measure(row: PipelineRow, theirs: dict[str, Tensor], ours: dict[str, Tensor], twin: dict[str, Tensor]) -> None:
    """The numbers that people ask for, where both sides came that far. None of them decides."""

    def last(pattern: str) -> float | None:
        errors = [item.error for item in row.details if fnmatchcase(item.name, pattern)]
        return errors[-1] if errors else None

    row.video_latent, row.audio_latent = last("video_latent.*"), last("audio_latent.*")
    row.mel = last("audio_decoder.*.mel")
    if _alike("waveform", theirs, ours):
        row.waveform = largest(ours["waveform"], theirs["waveform"])
    if _alike("frames", theirs, ours):
        frames = ours["frames"].values
        row.frames = len(frames)
        row.off_by_one, row.off_by_more = off(frames, theirs["frames"].values)
        row.psnr = psnr(frames, theirs["frames"].values)
    if twin:
        row.psnr_self = psnr(twin["frames"].values, theirs["frames"].values)


def _alike(name: str, theirs: dict[str, Tensor], ours: dict[str, Tensor]) -> bool:
    return name in ours and ours[name].values.shape == theirs[name].values.shape


def off(ours: np.ndarray, reference: np.ndarray) -> tuple[float, int]:
    """The share of bytes that are off by 1, and how many are by more."""
    difference = np.abs(ours.astype(np.int16) - reference)
    return float((difference == 1).mean()), int((difference > 1).sum())


def psnr(ours: np.ndarray, reference: np.ndarray) -> float:
    """Peak signal over noise in dB, of bytes."""
    error = np.sqrt(np.mean(np.square(ours.astype(np.float64) - reference)))
    return float(20 * np.log10(255 / error)) if error else float("inf")


def relative(ours: Tensor, reference: Tensor) -> float:
    """Root mean square of the difference over that of the reference. Zeros are matched by nothing but zeros."""
    a, b = ours.values.astype(np.float64), reference.values.astype(np.float64)
    error, norm = float(np.linalg.norm(a - b)), float(np.linalg.norm(b))
    return error / norm if norm else float("inf") if error else 0.0


def largest(ours: Tensor, reference: Tensor) -> float:
    return float(np.abs(ours.values.astype(np.float64) - reference.values).max(initial=0.0))
