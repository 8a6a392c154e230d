"""Small pictures of a latent while it is denoised, without the decoder.

Three weighted sums of a latent's channels are about the colours that the decoder makes of it. The weights are fitted
to the decoder in use, by least squares, from clips of coloured noise that go through the encoder and the decoder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np
from PIL import Image

from ..diffusion.latent_state import VideoLatentTools
from ..diffusion.samplers import DenoisingFunc, Latents, post_process_latent
from ..nn.noise import Generator
from ..types import VIDEO_SCALE_FACTORS, LatentState
from .ledger import Denoised, ModelLedger, Settings

_CLIPS, _SIDE, _FRAMES = 6, 256, 9  # 6 clips of 256 x 256 pixels and 9 frames: 768 latent cells for 128 channels
_RIDGE = 0.01  # of the number of cells: what the clips do not show of a channel stays out
_CELL = VIDEO_SCALE_FACTORS.height
_SHOWN, _WIDTH = 3, 256  # frames beside each other, and the least pixels of each


@dataclass(frozen=True)
class LatentColours:
    """The fit. weights: ``(C + 1, 3)``, a row for each channel and one for what is constant. explained: the share of
    the colours' variance that it gives, 1 where it is the decoder."""

    weights: np.ndarray
    explained: float

    def picture(self, latent: mx.array) -> Image.Image:
        """The first, the middle and the last frame of a video latent ``(1, C, F, H, W)``, beside each other."""
        _, _, frames, height, width = latent.shape
        chosen = sorted({round(i * (frames - 1) / (_SHOWN - 1)) for i in range(_SHOWN)})
        cells = np.array(latent[0, :, mx.array(chosen)].astype(mx.float32)).astype(np.float64).transpose(1, 2, 0, 3)
        flat = cells.reshape(len(cells), height, -1).transpose(1, 2, 0)  # (H, frames · W, C)
        colours = np.nan_to_num(flat @ self.weights[:-1] + self.weights[-1])
        small = Image.fromarray((np.clip((colours + 1) / 2, 0, 1) * 255).astype(np.uint8))
        scale = max(1, -(-_WIDTH // width))
        return small.resize((small.width * scale, small.height * scale), Image.Resampling.BICUBIC)


def latent_colours(ledger: ModelLedger) -> LatentColours:
    """Fit the colours of a checkpoint's decoder. Takes its encoder and decoder, which are released, and no number of
    the run's own noise."""
    dtype, latents, frames = ledger.settings.dtype, [], []
    clips = _clips()
    encoder = ledger.video_encoder()
    for clip in clips:
        latents.append(encoder(mx.array(clip).astype(dtype)))
        mx.eval(latents[-1])
    del encoder
    decoder = ledger.video_decoder()
    for latent in latents:
        frames.append(decoder(latent, generator=Generator(0)).astype(mx.float32))
        mx.eval(frames[-1])
    del decoder
    mx.clear_cache()
    cells = [_by_cell(np.array(latent.astype(mx.float32))[0]) for latent in latents]
    colours = [_by_cell(_means(np.array(clip)[0])) for clip in frames]
    return fitted(np.concatenate(cells), np.concatenate(colours))


def fitted(cells: np.ndarray, colours: np.ndarray) -> LatentColours:
    """The weights ``(C + 1, 3)`` with which ``cells`` ``(N, C)`` come nearest to ``colours`` ``(N, 3)``."""
    cells, colours = cells.astype(np.float64), colours.astype(np.float64)
    centre, mean = cells.mean(axis=0), colours.mean(axis=0)
    x, y = cells - centre, colours - mean
    weights = np.linalg.solve(x.T @ x + _RIDGE * len(x) * np.eye(x.shape[1]), x.T @ y)
    rest, all_of_it = ((y - x @ weights) ** 2).sum(), (y**2).sum()
    explained = float(1 - rest / all_of_it) if all_of_it > 0 else 0.0
    return LatentColours(np.concatenate([weights, (mean - centre @ weights)[None]]), explained)


def _clips() -> list[np.ndarray]:
    """Clips ``(1, 3, F, H, W)`` in [−1, 1] of coloured clouds that drift, with a spectrum like that of photographs."""
    rng, clips = np.random.default_rng(0), []
    frequency = np.hypot(np.fft.fftfreq(_SIDE)[:, None], np.fft.rfftfreq(_SIDE)[None])
    falling = 1 / np.maximum(frequency, 1 / _SIDE)
    for _ in range(_CLIPS):
        clouds = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((3, _SIDE, _SIDE))) * falling, s=(_SIDE, _SIDE))
        clouds = np.einsum("ij,jhw->ihw", rng.standard_normal((3, 3)), clouds / clouds.std())
        still = np.clip(0.3 * clouds + rng.uniform(-0.5, 0.5, (3, 1, 1)), -1, 1)
        drifting = [np.roll(still, 4 * frame, axis=2) for frame in range(_FRAMES)]
        clips.append(np.stack(drifting, axis=1)[None].astype(np.float32))
    return clips


def _means(video: np.ndarray) -> np.ndarray:
    """``(3, F, H, W)`` in pixels → the mean colour of what each latent cell covers, ``(3, f, h, w)``."""
    channels, frames, height, width = video.shape
    small = video.reshape(channels, frames, height // _CELL, _CELL, width // _CELL, _CELL).mean(axis=(3, 5))
    rest = small[:, 1:].reshape(channels, -1, VIDEO_SCALE_FACTORS.time, *small.shape[2:]).mean(axis=2)
    return np.concatenate([small[:, :1], rest], axis=1)


def _by_cell(values: np.ndarray) -> np.ndarray:
    """``(C, f, h, w)`` → a row for each cell."""
    return values.reshape(len(values), -1).T


# ---- while a stage runs -------------------------------------------------------------------------------------------


def reported(
    settings: Settings, name: str, tools: VideoLatentTools, denoise_fn: DenoisingFunc
) -> tuple[DenoisingFunc, Callable[[int, int], None]]:
    """A stage's denoising function, and its progress after each step. The latent of ``settings.preview`` is computed
    only where it is looked at; where there is no preview, nothing is kept."""
    if (preview := settings.preview) is None:
        return denoise_fn, lambda done, total: settings.progress(name, done, total)
    last: LatentState | None = None

    def denoise(video: LatentState, audio: LatentState, sigmas: np.ndarray, step_index: int) -> Latents:
        nonlocal last
        latents = denoise_fn(video, audio, sigmas, step_index)
        last = replace(video, latent=post_process_latent(latents[0], video.denoise_mask, video.clean_latent))
        return latents

    def progress(done: int, total: int) -> None:
        settings.progress(name, done, total)
        if done and last is not None:
            preview(Denoised(name, done, total, tools.unpatchify(tools.clear_conditioning(last)).latent))

    return denoise, progress
