"""Makes all videos of a plan: models loaded once, with progress, previews and a summary of each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import mlx.core as mx

from ..distributed.ranks import Ranks
from ..memory import Peaks
from ..pipelines.ledger import Denoised, Kept, ModelLedger, Settings
from ..pipelines.preview import LatentColours, latent_colours
from ..pipelines.stages import prompt_contexts
from .costs import costs, paces, remember
from .generate import generate, settings, with_seed
from .limit import available
from .macos import Pressure
from .memory import lines
from .plan import Plan
from .preview import Preview
from .progress import Display, Run, State, Video, summary
from .request import Request


def make(plan: Plan, display: Display, ranks: Ranks | None = None) -> Iterator[Path]:
    """Make each video, and yield where it is as soon as it is whole. What follows an error is not made. ranks: those
    that make it together."""
    requests = plan.requests
    pressure = Pressure(display.say)

    def show(state: State) -> None:
        display.show(state)
        pressure.look()

    mx.reset_peak_memory()
    run = Run(costs(plan), paces(), show)
    shared = settings(plan.request, run, ranks)
    run.peaks = shared.peaks
    if len(requests) > 1:
        shared = _shared(plan, shared)
    colours = None
    if plan.request.preview is not None:
        with shared.task("fitting the preview"):
            colours = latent_colours(_ledger(plan.request, shared))
    for number, request in enumerate(map(with_seed, requests)):
        if number:
            run.next_video()
        own = replace(shared, preview=_preview(request, colours, display), peaks=Peaks())
        run.peaks = own.peaks
        path = generate(replace(plan, request=request, others=()), run, own)
        _tell(path, request, plan, run.finish(), own.peaks, display)
        yield path
    if ranks is None:  # the paces of one process
        remember(*run.measured())


def _ledger(request: Request, shared: Settings) -> ModelLedger:
    return ModelLedger(request.checkpoint_path, request.gemma_root, settings=shared)


def _shared(plan: Plan, own: Settings) -> Settings:
    """Settings with every context, encoded now, and with models that are kept from one video to the next: as many as
    leave the memory that the largest stage works in."""
    request = plan.request
    if not (request.enhance_prompt or request.placeholder):
        made = prompt_contexts(_ledger(request, own), plan.prompts)
        own = replace(own, contexts={**own.contexts, **dict(zip(plan.prompts, made, strict=True))})
    if request.low_memory:  # keeps nothing that could be read again
        return own
    return replace(own, kept=Kept(available(request) - max((stage.working for stage in plan.stages), default=0)))


def _preview(request: Request, colours: LatentColours | None, display: Display) -> Preview | None:
    if request.preview is None or colours is None:
        return None

    def wrote(path: Path, step: Denoised) -> None:
        display.event("preview", path=str(path), phase=step.stage, step=step.step)

    return Preview(
        request.preview, request.preview_every or 1, colours, wrote, lambda text: display.say(f"note: {text}")
    )


def _tell(path: Path, request: Request, plan: Plan, video: Video, peaks: Peaks, display: Display) -> None:
    """The summary of a video, for readers and for programs."""
    size, shape = "", None
    with suppress(ValueError, OSError):
        shape = plan.recipe.denoising(request, plan.recipe.shape(request))[-1].shape
        size = f"{shape.frames} frames of {shape.width}x{shape.height}, "
    length = _size(path)
    video.peak = max(video.peak, peaks.most)
    memory = {stage.name: stage.memory for stage in plan.stages}
    for line in summary(path, request.seed, f"{size}{length / 1e6:.2f} MB", video):
        display.say(line)
    for line in lines(plan.stages, peaks):
        display.say(f"  memory  {line}")
    display.event(
        "video",
        path=str(path),
        seed=request.seed,
        prompt=request.prompt,
        bytes=length,
        frames=shape and shape.frames,
        height=shape and shape.height,
        width=shape and shape.width,
        seconds={phase: round(seconds, 3) for phase, seconds in video.seconds.items()},
        peak=video.peak,
        memory={name: {"peak": peak, "expected": memory.get(name)} for name, peak in peaks.phases.items()},
    )


def _size(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    with suppress(OSError):
        return sum(file.stat().st_size for file in ([path] if path.is_file() else path.iterdir()))
    return 0
