"""Faults that real ports shipped, one file a component, and their classes."""

from ..classes import CAUSES, NOT_APPLICABLE
from ..planting import Fault, StaleFaultError, planted
from .audio import AUDIO
from .command_line import COMMAND_LINE
from .denoising import DENOISING
from .files import FILES, ClipFault, FileFault
from .loading import LOADING
from .lora import LORA
from .media import MEDIA
from .pipelines import PIPELINES
from .positions import POSITIONS
from .sampling import SAMPLING
from .text import TEXT
from .transformer import TRANSFORMER
from .video import VIDEO
from .views import VIEWS

EDITS: tuple[Fault, ...] = (
    *LOADING,
    *TEXT,
    *POSITIONS,
    *TRANSFORMER,
    *VIDEO,
    *AUDIO,
    *SAMPLING,
    *DENOISING,
    *LORA,
    *PIPELINES,
    *VIEWS,
)
EDITS += (*COMMAND_LINE, *MEDIA)
FAULTS = tuple(fault for fault in EDITS if fault.seen_by == "stage")  # those that the selftest plants
BY_ID: dict[str, Fault | FileFault | ClipFault] = {fault.id: fault for fault in (*EDITS, *FILES)}

__all__ = [
    "BY_ID",
    "CAUSES",
    "EDITS",
    "FAULTS",
    "FILES",
    "NOT_APPLICABLE",
    "ClipFault",
    "Fault",
    "FileFault",
    "StaleFaultError",
    "planted",
]
