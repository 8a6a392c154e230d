"""Faults that real ports shipped, one file a component, and their classes."""

from dataclasses import replace

from ..classes import CANARIES, CAUSES, KINDS, NOT_APPLICABLE
from ..planting import Fault, StaleFaultError, planted
from .audio import AUDIO
from .denoising import DENOISING
from .files import FILES, ClipFault, FileFault
from .loading import LOADING
from .lora import LORA
from .pipelines import PIPELINES
from .positions import POSITIONS
from .sampling import SAMPLING
from .text import TEXT
from .transformer import TRANSFORMER
from .video import VIDEO
from .views import VIEWS

# Kind → the faults of a file. A fault of the file that says ``kind="…"`` is of that one.
_FILED = {
    "loading": LOADING,
    "text": TEXT,
    "positions": POSITIONS,
    "transformer": TRANSFORMER,
    "video": VIDEO,
    "audio": AUDIO,
    "sampling": SAMPLING,
    "denoising": DENOISING,
    "LoRA and float8": LORA,
    "pipelines": PIPELINES,
    "symptoms": VIEWS,
}
EDITS = tuple(
    replace(fault, kind=fault.kind or kind, canary=fault.canary or fault.id == CANARIES.get(fault.kind or kind))
    for kind, faults in _FILED.items()
    for fault in faults
)
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
