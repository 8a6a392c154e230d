"""``ltx2-mlx generate``: runs the pipeline that a plan describes, and writes its frames and audio."""

from __future__ import annotations

import logging
import secrets
from collections import deque
from dataclasses import replace
from pathlib import Path

from ..distributed.ranks import Ranks
from ..errors import InputError
from ..media.outputs import MOVIES, kind, remove_remains
from ..media.writing import encode_video, save_png_frames, save_wav
from ..memory import limited
from ..pipelines.ledger import Progress, Settings, quiet
from . import blas, places
from .plan import Plan, check_outputs, contexts
from .recipes import RECIPES, Result, parser
from .request import DTYPES, NOISE, Request
from .settings_file import recorded

logger = logging.getLogger(__name__)


def generate(plan: Plan, progress: Progress = quiet, made: Settings | None = None) -> Path:
    """Make the video of the plan's request, and return where it is. Raises InputError for a plan with problems. made:
    the settings, where they are known or shared with other videos.

    Nothing but the file of contexts is left behind where this fails or is stopped.
    """
    if plan.problems:
        raise InputError("; ".join(plan.problems))
    request, output = with_seed(plan.request), plan.request.output_path
    ranks = None if made is None else made.ranks
    if made is not None and ranks is not None and not ranks.first:
        with limited(request.memory_limit, plan.memory):
            frames, _ = run(request, made)
            if _shows(output, ranks):
                deque(frames, maxlen=0)  # the first rank alone gets any
        return output
    check_outputs(request)  # again: a download may have taken hours since the plan
    remove_remains(output.parent)
    if note := blas.note():
        logger.warning(note)
    said = _said(request)
    with limited(request.memory_limit, plan.memory):
        frames, audio = run(request, made or settings(request, progress))
        _shows(output, ranks)
        if kind(output) in MOVIES:
            fps = RECIPES[request.pipeline].shape(request).fps
            encode_video(frames, fps, audio, output, progress=progress, encoding=request.encoding, comment=said)
        elif kind(output) == "":
            save_png_frames(output, frames, audio, said)
        elif audio is not None:
            save_wav(output, audio, said)
        else:
            raise InputError(f"{output}: there is no audio to write; give a name that ends in .mp4")
    return output


def _shows(output: Path, ranks: Ranks | None) -> bool:
    """Say whether the first rank writes frames, which all ranks decode. Every rank must call this."""
    own = kind(output) in (*MOVIES, "")
    if ranks is None:
        return own
    with ranks.together():
        return ranks.told(str(own))[0] == str(True)


def with_seed(request: Request) -> Request:
    """A random seed drawn where one is asked for, so that the file can tell it."""
    if request.seed < 0 and RECIPES[request.pipeline].of_source:
        return replace(request, seed=secrets.randbelow(2**31))
    return request


def _said(request: Request) -> str | None:
    """The settings that the file is to hold. Where its inputs are is noted on this machine alone."""
    if not request.metadata:
        return None
    text, paths = recorded(request, parser("generate", request.pipeline))
    places.remember(paths)
    return text


def settings(request: Request, progress: Progress = quiet, ranks: Ranks | None = None) -> Settings:
    return Settings(
        dtype=DTYPES[request.dtype],
        quantization=request.quantization,
        noise=NOISE[request.noise],
        contexts=contexts(request),
        context_path=request.context if ranks is None or ranks.first else None,
        progress=progress,
        low_memory=request.low_memory,
        decode_budget=request.decode_budget,
        audio=request.audio,
        placeholder=request.placeholder,
        behaviour=request.behaviour,
        early_layers_only=request.early_layers_only,
        cross_attn_scale=request.cross_attn_scale,
        ranks=ranks,
        parallel=request.parallel or "tensor",
    )


def run(request: Request, settings: Settings) -> Result:
    """Frames and audio of the request's pipeline. The request is that of a plan: names have become paths."""
    return RECIPES[request.pipeline].run(request, settings)
