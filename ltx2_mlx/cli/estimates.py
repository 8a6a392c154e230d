"""The memory that networks take beside their weights, by counting what is alive at one time.

The numbers of arrays were measured: on a CPU with MLX 0.32.4, where it prepares some hundred operations before the
first of them is computed (tests/test_memory.py compares them with real runs); on an H100 with MLX 0.31.1. What a CPU
computes in half precision passes through float32, so that its arrays have 4 bytes a number there.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import mlx.core as mx

from ..config import (
    AudioVAEConfig,
    EmbeddingsProcessorConfig,
    GemmaTextConfig,
    LatentUpsamplerConfig,
    TransformerConfig,
    VocoderConfig,
    VocoderWithBWEConfig,
    read_vocoder_config,
)
from ..loading.checkpoint import Checkpoint
from ..transformer import COPIES, IN_FLIGHT

TEXT = 1024  # tokens of a prompt, with its padding
FLOAT32 = 4


def on_cpu() -> bool:
    return bool(mx.default_device().type == mx.cpu)


# ---- text ---------------------------------------------------------------------------------------------------------


def hidden_states(config: GemmaTextConfig, itemsize: int) -> int:
    """Bytes of what Gemma keeps of one prompt: the embedding and each layer's output."""
    return TEXT * config.hidden_size * (config.num_hidden_layers + 1) * itemsize


def gemma(config: GemmaTextConfig, itemsize: int, paged: bool) -> int:
    """Bytes that Gemma takes for one prompt, with what it keeps of it."""
    masks = 7 * TEXT * TEXT  # two kinds of layers, and the distances that they are made of
    kept = hidden_states(config, itemsize)
    if on_cpu():
        scores = TEXT * TEXT * config.num_attention_heads * FLOAT32
        return kept + masks + scores + 5 * TEXT * config.intermediate_size * FLOAT32
    layer = TEXT * (3 * config.intermediate_size + config.hidden_size) * itemsize
    return kept + masks + layer * (2 if paged else config.num_hidden_layers)


def connectors(checkpoint: Checkpoint, states: int, itemsize: int) -> int:
    """Bytes that feature extractor and connectors take for one prompt. states: bytes of its hidden states."""
    config = EmbeddingsProcessorConfig.from_metadata(checkpoint.config)
    features = 5 * states * FLOAT32 // itemsize  # stacked, normalised, masked
    if not on_cpu():
        return features
    heads = max(config.video_connector.num_attention_heads, config.audio_connector.num_attention_heads)
    return features + 2 * TEXT * TEXT * heads * FLOAT32


def contexts(checkpoint: Checkpoint, itemsize: int) -> int:
    """Bytes of the contexts of one prompt, which stay until denoising has ended."""
    config = EmbeddingsProcessorConfig.from_metadata(checkpoint.config)
    return TEXT * (config.video_connector.inner_dim + config.audio_connector.inner_dim) * itemsize


# ---- denoising ----------------------------------------------------------------------------------------------------


def denoising(checkpoint: Checkpoint, tokens: int, of_audio: int, itemsize: int, paged: bool) -> int:
    """Bytes that one pass over ``tokens`` video and ``of_audio`` audio tokens takes.

    On an H100 19B took 0.8, 2.8 and 5.8 GB for 1,536, 6,144 and 24,576 tokens, where this says 2.7, 2.6 and 5.3: the
    blocks that are started together are bounded, and for few tokens the host is slower than that bound.
    """
    config = TransformerConfig.from_metadata(checkpoint.config)
    x = tokens * config.inner_dim + of_audio * config.audio_inner_dim
    if not on_cpu():
        block = COPIES * x * itemsize
        return block * (1 if paged else min(max(IN_FLIGHT // block, 1), config.num_layers))
    heads, widths = config.num_attention_heads, config.inner_dim + config.audio_inner_dim
    # Every head's scores: of the tokens among themselves; or of both streams with the text, and its keys and values.
    among = heads * max(tokens, of_audio) ** 2
    with_text = (heads * tokens + config.audio_num_attention_heads * of_audio + 7 * widths) * TEXT
    return (16 * x + max(among, with_text)) * FLOAT32


# ---- upsampling ---------------------------------------------------------------------------------------------------


def upsampling(config: LatentUpsamplerConfig, cells: int, itemsize: int) -> int:
    """Bytes that upsampling to ``cells`` cells takes: three convolutions in a row, as ``vae_memory`` counts them."""
    return cells * config.mid_channels * (3 * 27 * FLOAT32 if on_cpu() else 28 * itemsize)


# ---- audio --------------------------------------------------------------------------------------------------------


def spectrogram(checkpoint: Checkpoint, frames: int) -> int:
    """Bytes that the audio VAE takes for ``frames`` latent frames, in either direction: six of the convolutions at the
    size of the spectrogram, each with the 9 neighbours of every position."""
    config = AudioVAEConfig.from_metadata(checkpoint.config)
    return 6 * 9 * (4 * frames - 3) * config.mel_bins * config.ch * config.ch_mult[0] * FLOAT32


def audio(checkpoint: Checkpoint, frames: int) -> int:
    """Bytes that decoding ``frames`` latent frames to a waveform takes."""
    mel = 4 * frames - 3
    config = read_vocoder_config(checkpoint.config)
    if isinstance(config, VocoderWithBWEConfig):
        again = mel * prod(config.vocoder.upsample_rates) // config.hop_length  # the extension's own spectrogram
        waveform = max(_vocoder(config.vocoder, mel), _vocoder(config.bwe, again))
    else:
        waveform = _vocoder(config, mel)
    return max(spectrogram(checkpoint, frames), waveform)


def _vocoder(config: VocoderConfig, frames: int) -> int:
    """About eight of the widest convolutions in a row, each with what its kernel sees of every position."""
    return 8 * max(config.resblock_kernel_sizes) * FLOAT32 * max(_stages(config, frames))


def _stages(config: VocoderConfig, frames: int) -> Iterator[int]:
    """Samples times channels of each stage."""
    width = config.upsample_initial_channel
    for rate in config.upsample_rates:
        frames, width = frames * rate, width // 2
        yield frames * width
