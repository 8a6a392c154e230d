"""The tree of errors. Every message says what was found, what was expected and what to do.

LTX2Error
├── CheckpointError      the file cannot be read as an LTX-2 checkpoint
│   ├── HubError         it is not on this machine and cannot be fetched from Hugging Face
│   ├── ConfigError      its metadata describes a network that we do not build
│   └── WeightsError     its tensors do not fit the network that its metadata describes
├── MediaError           an image, video or audio file cannot be read, or was not written as given
├── NotFiniteError       a step of a run gave NaN or infinite numbers
├── RanksError           the processes that run one model together do not agree, or one of them has failed
└── InputError           a call's arguments do not fit the model
"""


def printable(text: object) -> str:
    """The text on one line, without a character that steers a terminal or starts a command of a CI job."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


class LTX2Error(Exception):
    """Base of every error that this package raises on purpose. Its message is one line, whatever a file or a flag that
    it names holds."""

    def __init__(self, message: object = ""):
        super().__init__(printable(message))


class CheckpointError(LTX2Error):
    """The file is missing, damaged, or not an LTX-2 checkpoint."""


class HubError(CheckpointError):
    """The weights are not on this machine and cannot be fetched from Hugging Face."""


class ConfigError(CheckpointError):
    """The checkpoint's metadata is missing, contradictory, or describes an unsupported network."""


class WeightsError(CheckpointError):
    """Tensors are missing, left over, or of the wrong shape."""


class MediaError(LTX2Error):
    """An image, video or audio file cannot be read, or does not hold what was written to it."""


class NotFiniteError(LTX2Error):
    """A part of a run gave NaN or infinite numbers."""


class RanksError(LTX2Error):
    """The processes that run one model together do not agree, or one of them has failed."""


class InputError(LTX2Error, ValueError):
    """A call's arguments do not fit the model."""
