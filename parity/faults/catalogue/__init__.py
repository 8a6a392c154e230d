"""Faults that real ports shipped, one file a component, and their classes."""

from dataclasses import replace
from fnmatch import fnmatchcase

from ..classes import CANARIES, CAUSES, KINDS, NOT_APPLICABLE, OF_KIND
from ..planting import Fault, StaleFaultError, planted
from .audio import AUDIO
from .command_line import COMMAND_LINE
from .conditions import CONDITIONS
from .denoising import DENOISING
from .diffusion_decoder import DIFFUSION_DECODER
from .files import FILES, ClipFault, FileFault
from .gemma4 import GEMMA4
from .loading import LOADING
from .lora import LORA
from .media import MEDIA
from .outsiders import OUTSIDERS
from .pipeline_options import PIPELINE_OPTIONS
from .pipelines import PIPELINES
from .positions import POSITIONS
from .sampling import SAMPLING
from .text import TEXT
from .transformer import TRANSFORMER
from .transformer_25 import TRANSFORMER_25
from .upstream import UPSTREAM
from .video import VIDEO
from .views import VIEWS

EDITS: tuple[Fault, ...] = (
    *LOADING,
    *TEXT,
    *GEMMA4,
    *POSITIONS,
    *TRANSFORMER,
    *TRANSFORMER_25,
    *VIDEO,
    *DIFFUSION_DECODER,
    *AUDIO,
)
EDITS += (*SAMPLING, *DENOISING, *LORA, *PIPELINES, *PIPELINE_OPTIONS, *CONDITIONS, *COMMAND_LINE, *MEDIA, *VIEWS)
EDITS += (*UPSTREAM, *OUTSIDERS)
# The kind of a file's faults, where ``classes.OF_KIND`` does not name another.
_FILED = {
    "loading": LOADING,
    "text": (*TEXT, *GEMMA4),
    "positions": POSITIONS,
    "transformer": (*TRANSFORMER, *TRANSFORMER_25),
    "video": (*VIDEO, *DIFFUSION_DECODER),
    "audio": AUDIO,
    "sampling": SAMPLING,
    "denoising": (*DENOISING, *UPSTREAM),
    "LoRA and float8": LORA,
    "pipelines": (*PIPELINES, *PIPELINE_OPTIONS),
    "command line": COMMAND_LINE,
    "files": MEDIA,
    "symptoms": VIEWS,
}
_KIND_OF = {fault.id: kind for kind, faults in _FILED.items() for fault in faults}


def _of_a_kind(fault: Fault) -> Fault:
    named = (kind for kind, ids in OF_KIND.items() if any(fnmatchcase(fault.id, glob) for glob in ids.split()))
    kind = fault.kind or next(named, "") or _KIND_OF[fault.id]
    return replace(fault, kind=kind, canary=fault.canary or fault.id == CANARIES.get(kind))


EDITS = tuple(map(_of_a_kind, EDITS))
FAULTS = tuple(fault for fault in EDITS if fault.seen_by == "stage")  # those that the selftest plants
BY_ID: dict[str, Fault | FileFault | ClipFault] = {fault.id: fault for fault in (*EDITS, *FILES)}

__all__ = [
    "BY_ID",
    "CAUSES",
    "EDITS",
    "FAULTS",
    "FILES",
    "KINDS",
    "NOT_APPLICABLE",
    "ClipFault",
    "Fault",
    "FileFault",
    "StaleFaultError",
    "planted",
]
