"""What several processes share: every layer of the networks, or the passes of a guided step."""

from __future__ import annotations

from ..errors import InputError
from .recipes import RECIPES
from .request import Request


def check_parallel(request: Request) -> None:
    """Raises InputError where the processes cannot share what ``--parallel`` says."""
    if request.parallel is None:
        return
    if request.ranks == 1:
        raise InputError(
            f"--parallel {request.parallel} has no effect on one process: start several with mlx.launch or --hosts"
        )
    if request.parallel == "guidance" and (why := not_shared(request)):
        raise InputError(f"--parallel guidance: {why}")


def not_shared(request: Request) -> str:
    """Why the passes of a step cannot be dealt out to the processes; empty where they can."""
    passes = RECIPES[request.pipeline].passes(request)
    if passes == 1:
        return "without guidance a step is one pass, which cannot be dealt out"
    if passes < request.ranks:
        idle = ", ".join(map(str, range(passes, request.ranks)))
        return f"a step has {passes} passes, and of {request.ranks} ranks {idle} would have none"
    return ""
