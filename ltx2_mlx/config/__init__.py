"""The networks that a checkpoint describes: one frozen dataclass per section of its ``config`` metadata.

No default is used that the released files contradict. An unknown key raises, because it may change the network; the
keys that are known to change nothing are listed beside those that are read.
"""

from .audio import AudioVAEConfig, CausalityAxis, NormType, VocoderConfig, VocoderWithBWEConfig, read_vocoder_config
from .text import ConnectorConfig, EmbeddingsProcessorConfig, Gemma3TextConfig
from .transformer import StreamConfig, TransformerConfig
from .video import LatentUpsamplerConfig, VAEBlock, VideoVAEConfig

SUPPORTED_VERSIONS = ("2.0", "2.3", "2.5")

__all__ = [
    "SUPPORTED_VERSIONS",
    "AudioVAEConfig",
    "CausalityAxis",
    "ConnectorConfig",
    "EmbeddingsProcessorConfig",
    "Gemma3TextConfig",
    "LatentUpsamplerConfig",
    "NormType",
    "StreamConfig",
    "TransformerConfig",
    "VAEBlock",
    "VideoVAEConfig",
    "VocoderConfig",
    "VocoderWithBWEConfig",
    "read_vocoder_config",
]
