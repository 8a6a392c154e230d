"""Small pictures of a latent while it is denoised, without the decoder.

Three weighted sums of a latent's channels are about the colours that the decoder makes of it. The weights are fitted
to the decoder in use, by least squares, from pictures of coloured noise that go through the encoder and the decoder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np
from PIL import Image

from ..diffusion.latent_state import VideoLatentTools
from ..diffusion.samplers import DenoisingFunc, Latents, post_process_latent
from ..nn.noise import Generator
from ..types import VIDEO_SCALE_FACTORS, LatentState
from .ledger import Denoised, ModelLedger, Settings

_PICTURES, _SIDE = 16, 160  # 16 pictures of 160 x 160 pixels: 400 latent cells for 128 channels
_RIDGE = 0.01  # of the number of cells: what the pictures do not show of a channel stays out
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
    latents, colours = [], []
    encoder = ledger.video_encoder()
    for picture in _pictures():
        latents.append(encoder(mx.array(picture)[None, :, None].astype(ledger.settings.dtype)))
        mx.eval(latents[-1])
    del encoder
    decoder = ledger.video_decoder()
    for latent in latents:
        pixels = np.array(decoder(latent, generator=Generator(0)).astype(mx.float32))[0, :, 0]
        cells = pixels.reshape(3, _SIDE // _CELL, _CELL, _SIDE // _CELL, _CELL)
        colours.append(_by_cell(cells.mean(axis=(2, 4))))
    del decoder
    mx.clear_cache()
    return fitted(
        np.concatenate([_by_cell(np.array(latent.astype(mx.float32))[0, :, 0]) for latent in latents]),
        np.concatenate(colours),
    )


def fitted(cells: np.ndarray, colours: np.ndarray) -> LatentColours:
    """The weights ``(C + 1, 3)`` with which ``cells`` ``(N, C)`` come nearest to ``colours`` ``(N, 3)``."""
    cells, colours = cells.astype(np.float64), colours.astype(np.float64)
    centre, mean = cells.mean(axis=0), colours.mean(axis=0)
    x, y = cells - centre, colours - mean
    weights = np.linalg.solve(x.T @ x + _RIDGE * len(x) * np.eye(x.shape[1]), x.T @ y)
    rest, all_of_it = ((y - x @ weights) ** 2).sum(), (y**2).sum()
    explained = float(1 - rest / all_of_it) if all_of_it > 0 else 0.0
    return LatentColours(np.concatenate([weights, (mean - centre @ weights)[None]]), explained)


def _pictures() -> Iterator[np.ndarray]:
    """Pictures ``(3, H, W)`` in [−1, 1] of coloured clouds, with a spectrum like that of photographs."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(_SIDE)[:, None], np.fft.rfftfreq(_SIDE)[None])
    falling = 1 / np.maximum(frequency, 1 / _SIDE)
    for _ in range(_PICTURES):
        clouds = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((3, _SIDE, _SIDE))) * falling, s=(_SIDE, _SIDE))
        clouds = np.einsum("ij,jhw->ihw", rng.standard_normal((3, 3)), clouds / clouds.std())
        yield np.clip(0.3 * clouds + rng.uniform(-0.5, 0.5, (3, 1, 1)), -1, 1).astype(np.float32)


def _by_cell(values: np.ndarray) -> np.ndarray:
    """``(C, h, w)`` → a row for each cell."""
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
