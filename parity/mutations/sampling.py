"""Faults of schedules, guiders and steps."""

from __future__ import annotations

from .planting import Mutation


def _fault(id: str, fault: str, file: str, old: str, new: str, tap: str, case: str) -> Mutation:
    return Mutation(id, fault, file, old, new, tap, config="any", case=case, stage="sampling")


_GUIDERS, _SCHEDULES = "guiders.py", "schedulers.py"
SAMPLING = (
    _fault(
        "S03",
        "the shift taken from 4096 tokens whatever the latent",
        _SCHEDULES,
        "mu = tokens * slope",
        "mu = MAX_SHIFT_ANCHOR * slope",
        "ltx2.2.6",
        "schedules",
    ),
    _fault(
        "S04",
        "token count clamped to the two anchors",
        _SCHEDULES,
        "mu = tokens * slope",
        "mu = min(max(tokens, 1024), 4096) * slope",
        "ltx2.2.6",
        "schedules",
    ),
    _fault(
        "S05",
        "stretch to the terminal sigma missing",
        _SCHEDULES,
        "sigmas = _ONE - rest / (rest[-1] / np.float32(1.0 - terminal))",
        "pass",
        "ltx2.2",
        "schedules",
    ),
    _fault(
        "S05b",
        "stretched in float64 and rounded at the end",
        _SCHEDULES,
        "sigmas = _ONE - rest / (rest[-1] / np.float32(1.0 - terminal))",
        "sigmas = (1.0 - rest.astype(np.float64) / (np.float64(rest[-1]) / (1.0 - terminal))).astype(np.float32)",
        "ltx2.",
        "schedules",
    ),
    _fault(
        "S12",
        "root mean square for std in the rescaling",
        _GUIDERS,
        "mx.std(x.astype(mx.float32), ddof=1)",
        "mx.sqrt(mx.mean(mx.square(x.astype(mx.float32))))",
        "multi.default",
        "guiders",
    ),
    _fault(
        "S12b",
        "biased std, which cancels in a ratio but not in its rounding",
        _GUIDERS,
        "factor = _std(cond) / _std(pred)",
        "factor = _std(cond) / mx.std(pred)",
        "multi.default",
        "guiders",
    ),
    _fault(
        "S21",
        "the step divides by the next sigma",
        "diffusion_steps.py",
        "velocity = to_velocity(sample, float(sigma), denoised_sample)",
        "velocity = to_velocity(sample, float(after) or 1e-3, denoised_sample)",
        "euler.0",
        "euler",
    ),
    _fault(
        "S22b",
        "modality guidance by its scale, not by scale − 1",
        _GUIDERS,
        "(p.modality_scale - 1) * (cond - uncond_modality)",
        "p.modality_scale * (cond - uncond_modality)",
        "multi.default",
        "guiders",
    ),
    _fault(
        "S23",
        "a step is skipped where it should be guided",
        _GUIDERS,
        "step % (self.params.skip_step + 1) != 0",
        "step % (self.params.skip_step + 1) == 0",
        "skip.0",
        "guiders",
    ),
    _fault(
        "S24",
        "bins of sigma looked up from above",
        _GUIDERS,
        "at_least[-1] if at_least",
        "at_least[0] if at_least",
        "bin.0.6",
        "guiders",
    ),
    _fault(
        "S25",
        "the parallel part of APG not weighted by eta",
        _GUIDERS,
        "return parallel * eta + (guidance - parallel)",
        "return parallel + (guidance - parallel) * eta",
        "apg.0",
        "guiders",
    ),
)
