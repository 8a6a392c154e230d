"""Faults of the audio VAE, the mel front end and the vocoders."""

from __future__ import annotations

from functools import partial

from .planting import Mutation

_WIDE, _GROUP = "tiny-2.0-audio-wide", "tiny-2.3-audio-group"
_encoder = partial(Mutation, file="audio_vae.py", config=_WIDE, stage="audio_encoder")
_decoder = partial(Mutation, file="audio_vae.py", config=_WIDE, stage="audio_decoder")
_processor = partial(Mutation, file="audio_processor.py", config="any", stage="audio_processor", case="mel")
_hifigan = partial(Mutation, file="vocoder.py", config=_WIDE, stage="vocoder")
_bigvgan = partial(Mutation, file="vocoder.py", config=_GROUP, stage="vocoder")
_MEL, _ACT = "waveform_to_mel.16000", "vocoder.resblocks.0.acts1.0"

AUDIO = (
    # ---- the autoencoder
    _encoder(
        "A02",
        "output norm missing in the encoder",
        old="self.non_linearity(self.norm_out(self.mid.run(h)))",
        new="self.non_linearity(self.mid.run(h))",
        tap="norm_out",
    ),
    _decoder(
        "A02b",
        "output norm missing in the decoder",
        old="self.non_linearity(self.norm_out(h))",
        new="self.non_linearity(h)",
        tap="norm_out",
    ),
    _encoder(
        "A10",
        "the video VAE's eps, 1e-8 for 1e-6",
        old="return PixelNorm(eps=1e-6)",
        new="return PixelNorm()",
        tap="down.0.block.0.norm1",
    ),
    _encoder(
        "A11",
        "groups of a group norm interleaved",
        old="eps=1e-6, pytorch_compatible=True)",
        new="eps=1e-6)",
        tap="down.1.block.0.norm2",
        config=_GROUP,
    ),
    _encoder(
        "A11b",
        "eps 1e-5 for 1e-6 in the group norms",
        old="eps=1e-6, pytorch_compatible=True)",
        new="pytorch_compatible=True)",
        tap="down.0.block.0.norm1",
        config=_GROUP,
    ),
    _encoder(
        "A14",
        "downsampling padded on both sides of time",
        old="CausalityAxis.HEIGHT: ((2, 0), (0, 1))",
        new="CausalityAxis.HEIGHT: ((1, 1), (0, 1))",
        tap="down.0.downsample.conv<x",
    ),
    _decoder(
        "A16",
        "the last row dropped after upsampling, not the first",
        old="return x[:, self.first[0] :, self.first[1] :]",
        new="return x[:, : x.shape[1] - self.first[0], self.first[1] :]",
        tap="up.2.upsample",
    ),
    _decoder(
        "A21",
        "rows tiled, not repeated, before an upsampling convolution",
        old="mx.repeat(mx.repeat(x, 2, axis=1), 2, axis=2)",
        new="mx.repeat(mx.concatenate([x, x], axis=1), 2, axis=2)",
        tap="up.2.upsample.conv<x",
    ),
    _encoder(
        "A22",
        "convolutions padded after the last frame, not before the first",
        old="(pad, 0)\n",
        new="(0, pad)\n",
        tap="conv_in.conv<x",
    ),
    _encoder(
        "A23",
        "latents not normalised",
        old="self.per_channel_statistics.normalize(self.patchifier.patchify(means))",
        new="self.patchifier.patchify(means)",
        tap="per_channel_statistics.normalize",
    ),
    _decoder(
        "A24",
        "statistics in bin-major order",
        old="self.per_channel_statistics.un_normalize(self.patchifier.patchify(sample))",
        new="self.per_channel_statistics.un_normalize("
        "sample.transpose(0, 2, 3, 1).reshape(sample.shape[0], sample.shape[2], -1))",
        tap="per_channel_statistics.un_normalize<x",
        case="frames-1",
    ),
    _decoder(
        "A25",
        "four frames for each latent, the first ones not left out",
        old="            frames = max(frames - (LATENT_DOWNSAMPLE_FACTOR - 1), 1)\n",
        new="            pass\n",
        tap="_denormalize_latents.1",
    ),
    _encoder(
        "A26",
        "attention scaled by the root of the width twice",
        old="scale=C**-0.5",
        new="scale=C**-1.0",
        tap="down.1.attn.0.proj_out<x",
        config=_GROUP,
    ),
    # ---- the mel front end
    _processor(
        "A09",
        "mel filters without Slaney's norm",
        old="    return triangles * (f32(2) / (points[2:] - points[:-2]))\n",
        new="    return triangles\n",
        tap=_MEL,
    ),
    _processor(
        "A09b",
        "a symmetric Hann window for the periodic one",
        old="np.arange(n_fft) / n_fft))",
        new="np.arange(n_fft) / (n_fft - 1)))",
        tap=_MEL,
    ),
    _processor(
        "A09c",
        "silence around the clip, not its mirror image",
        old='(half, half)], mode="reflect")',
        new="(half, half)])",
        tap=_MEL,
    ),
    _processor(
        "A09d",
        "power for magnitude",
        old="np.abs(np.fft.rfft(frames * self.window))",
        new="np.abs(np.fft.rfft(frames * self.window)) ** 2",
        tap=_MEL,
    ),
    _processor(
        "A27",
        "filters up to the Nyquist rate when resampling",
        old="LOWPASS_FILTER_WIDTH, ROLLOFF = 6, 0.99",
        new="LOWPASS_FILTER_WIDTH, ROLLOFF = 6, 1.0",
        tap="resample_audio.8000",
        case="resample",
    ),
    # ---- the vocoder of 2.0
    _hifigan(
        "A05", "slope 0.1 before the last convolution too", old="_leaky(x, 0.01)", new="_leaky(x, 0.1)", tap="act_post"
    ),
    _hifigan("A05b", "slope 0.01 between the stages", old="LRELU_SLOPE = 0.1", new="LRELU_SLOPE = 0.01", tap="ups.0<x"),
    _hifigan(
        "A06",
        "dilation ignored",
        file="nn/conv1d.py",
        old="dilation=self.dilation)",
        new="dilation=1)[:, : x.shape[1]]",
        tap="resblocks.0.convs1.1",
    ),
    _hifigan(
        "A07",
        "kernels of the transposed convolutions reversed",
        file="nn/conv1d.py",
        old="mx.conv_transpose1d(x, self.weight,",
        new="mx.conv_transpose1d(x, self.weight[:, ::-1],",
        tap="ups.0",
    ),
    _hifigan(
        "A07b",
        "one sample more cut off where k − stride is odd",
        file="nn/conv1d.py",
        old="(kernel_size - stride) // 2",
        new="(kernel_size - stride + 1) // 2",
        tap="ups.0",
    ),
    _hifigan(
        "A28",
        "bins of left and right interleaved",
        old="x.astype(mx.float32).transpose(0, 2, 1, 3)",
        new="x.astype(mx.float32).transpose(0, 2, 3, 1)",
        tap="conv_pre<x",
    ),
    _hifigan(
        "A29",
        "residual blocks summed, not averaged",
        old="sum(block(x) for block in blocks) / parallel",
        new="sum(block(x) for block in blocks)",
        tap="ups.1<x",
    ),
    _hifigan(
        "A30",
        "the vocoder in the model's dtype",
        old="x = x.astype(mx.float32).transpose(0, 2, 1, 3)",
        new="x = self.set_dtype(x.dtype) or x.transpose(0, 2, 1, 3)",
        tap="conv_pre",
        dtype="bfloat16",
    ),
    # ---- the vocoder of 2.3 and its bandwidth extension
    _bigvgan(
        "A31",
        "a filter made anew for the checkpoint's when upsampling",
        old="return self._upsample(x, self.filter)",
        new="kaiser = np.sinc((np.arange(12) - 5.5) / 2) * np.kaiser(12, 4.66379)\n"
        "        return self._upsample(x, mx.array((kaiser / kaiser.sum()).astype(np.float32)))",
        tap=f"{_ACT}.upsample",
    ),
    _bigvgan(
        "A31b",
        "a filter made anew for the checkpoint's when downsampling",
        old="self.filter.reshape(-1), self.stride)",
        new="mx.array((lambda k: k / k.sum())(np.sinc((np.arange(12) - 5.5) / 2) * np.kaiser(12, 4.66379))"
        ".astype(np.float32)), self.stride)",
        tap=f"{_ACT}.downsample.lowpass",
    ),
    _bigvgan(
        "A31c",
        "a mel basis made anew for the checkpoint's",
        old="log_mel = mx.log(mx.maximum(self.mel_basis @ magnitude, 1e-5))",
        new="from .audio_processor import melscale_fbanks\n"
        "        bins = magnitude.shape[1]\n"
        "        basis = mx.array(melscale_fbanks(bins, 6000.0, self.mel_basis.shape[0], 12000).T)\n"
        "        log_mel = mx.log(mx.maximum(basis @ magnitude, 1e-5))",
        tap="mel_stft.mel_spectrogram",
    ),
    _bigvgan(
        "A31d",
        "Fourier bases made anew for the checkpoint's",
        old="rows, _, length = self.forward_basis.shape\n",
        new="rows, _, length = self.forward_basis.shape\n"
        "        n = np.arange(length)\n"
        "        angles = 2 * np.pi * np.arange(rows // 2)[:, None] * n / length\n"
        "        bases = np.concatenate([np.cos(angles), -np.sin(angles)]) * np.sin(np.pi * n / length) ** 2\n"
        "        self.forward_basis = mx.array(bases[:, None].astype(np.float32))\n",
        tap="mel_stft.stft_fn",
    ),
    _bigvgan(
        "A32",
        "snake without its own exponent of beta",
        old="/ (mx.exp(beta) + 1e-9)",
        new="/ (mx.exp(alpha) + 1e-9)",
        tap=f"{_ACT}.act",
    ),
    _bigvgan(
        "A33",
        "silence for the first and last sample around a filter",
        old='((0, 0), (left, right), (0, 0)), mode="edge")',
        new="((0, 0), (left, right), (0, 0)))",
        tap=f"{_ACT}.upsample",
    ),
    _bigvgan(
        "A34",
        "a transform that sees the future",
        old="mx.pad(y, ((0, 0), (self.left_pad, 0)))",
        new="mx.pad(y, ((0, 0), (self.left_pad // 2, self.left_pad - self.left_pad // 2)))",
        tap="mel_stft.stft_fn",
    ),
    _bigvgan(
        "A35",
        "the waveform beside the extension resampled with another filter",
        old="zero_crossings, rolloff = 6, 0.99",
        new="zero_crossings, rolloff = 6, 0.95",
        tap="resampler",
    ),
    _bigvgan(
        "A36",
        "the extension's correction left out",
        old="mx.clip(residual + skip, -1, 1)",
        new="mx.clip(skip, -1, 1)",
        tap="VocoderWithBWE",
    ),
    _bigvgan(
        "A37",
        "the last, unfilled frame not cut off",
        old="[..., : samples * self.config.ratio]",
        new="",
        tap="VocoderWithBWE",
    ),
    _bigvgan(
        "A38",
        "tanh where the checkpoint says clamp",
        old="return mx.tanh(x) if config.use_tanh_at_final else mx.clip(x, -1, 1)",
        new="return mx.clip(x, -1, 1)",
        tap="vocoder",
    ),
)
