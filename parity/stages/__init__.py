"""The only files that name stages and taps."""

from ..registry import Stage
from .patchifiers import PATCHIFIERS
from .sampling import SAMPLING
from .transformer import TRANSFORMER

STAGES = (PATCHIFIERS, TRANSFORMER, SAMPLING)


def stages() -> dict[str, Stage]:
    """Every stage by name, in data order."""
    return {stage.name: stage for stage in STAGES}
