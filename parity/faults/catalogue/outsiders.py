"""Faults that the gate did not see when they were planted, each with a sibling: what now shows them is their tap."""

from __future__ import annotations

from functools import partial

from ..planting import Fault

_fault = partial(Fault, config="any")
_region = partial(
    _fault,
    stage="denoising",
    case="conditioning",
    file="diffusion/conditioning.py",
    old="inside = (end > self.start_time) & (start < self.end_time)",
    cause="mask",
    kind="clamps and neutral values",
)
_refined = partial(
    _fault,
    stage="denoising",
    case="loops",
    file="diffusion/samplers.py",
    old="h < 0.5 and sigma > 0.03",
    tap="res2s_audio_video_denoising_loop.short",
    cause="wrong constant",
    kind="clamps and neutral values",
)
_factory = partial(
    _fault,
    stage="denoising",
    case="guidance",
    file="diffusion/guiders.py",
    old="return params if negative_context is None else replace(params, negative_context=negative_context)",
    cause="wrong input",
    kind="options with one value",
)
_marked = partial(
    _fault,
    stage="upstream",
    case="frozen",
    file="diffusion/denoisers.py",
    tap="frozen",
    cause="wrong input",
    kind="stand-ins",
)
_mel = partial(_fault, stage="audio_processor", case="mel", file="audio_processor.py", kind="audio")
_quiet = partial(
    Fault,
    stage="vocoder",
    config="tiny-2.3-audio-group",
    case="quiet",
    file="vocoder.py",
    tap="mel_stft.mel_spectrogram",
    kind="audio",
)
_decoded = partial(
    Fault,
    stage="decode_audio",
    config="tiny-2.0",
    file="audio_vae.py",
    tap="decode_audio",
    cause="wrong input",
    kind="batch rows and caches",
)
_tiled = partial(
    Fault, stage="video_decoder", config="tiny-2.0-timestep", file="video_vae.py", case="tiled", cause="tile blending"
)
_plan = partial(
    _tiled,
    file="tiling.py",
    old="round(size * shape[axis] / max(shape[3], shape[4])))",
    kind="sizes",
    tap="_prepare_tiles",
)
_slabs = partial(
    Fault,
    stage="video_decoder_25",
    config="tiny-2.5-diffusion-vae",
    case="small",
    file="diffusion_decoder.py",
    tap="DiffusionVideoDecoder",
    kind="sizes",
)
_files = partial(_fault, stage="files", file="media/images.py", kind="files")
_streams = partial(
    _fault,
    stage="command_line",
    case="python",
    file="config/transformer.py",
    old="return max(self.positional_embedding_max_pos[0], self.audio_positional_embedding_max_pos[0])",
    cause="wrong constant",
    kind="settings equal to the default",
)
_line = partial(_fault, stage="command_line", case="distilled", kind="command line")

OUTSIDERS = (
    # ---- bounds that no value met
    _region(
        "W01",
        "tokens that end where a region begins taken for a part of it",
        new="inside = (end >= self.start_time) & (start < self.end_time)",
        tap="region.video.0.25-9",
    ),
    _region(
        "W02",
        "a token that a region begins within left out of it",
        new="inside = (end > self.start_time) & (start < self.end_time) & (start >= self.start_time - 0.005)",
        tap="region.video.0.2-0.5",
    ),
    _refined("W03", "starts of steps refined only above a noise of 0.3", new="h < 0.5 and sigma > 0.3"),
    _refined("W04", "starts of short steps refined at every level of noise", new="h < 0.5"),
    _mel(
        "W05",
        "silence at 1e-6",
        old="SMALLEST = 1e-5",
        new="SMALLEST = 1e-6",
        tap="waveform_to_mel.16000",
        cause="wrong constant",
    ),
    _mel(
        "W06",
        "silence added to what is heard, not the least of it",
        old="np.log(np.maximum(magnitude @ self.filters.astype(np.float64), SMALLEST))",
        new="np.log(magnitude @ self.filters.astype(np.float64) + SMALLEST)",
        tap="waveform_to_mel.16000",
        cause="eps",
    ),
    _mel(
        "W07",
        "the frame at the end of the samples left out",
        old="[..., :: self.mel_hop_length, :]",
        new="[..., : samples.shape[-1] - self.n_fft : self.mel_hop_length, :]",
        tap="waveform_to_mel.mono",
        cause="padding side",
    ),
    _quiet(
        "W32",
        "near silence at 1e-6 for the bandwidth extension",
        old="mx.maximum(self.mel_basis @ magnitude, 1e-5)",
        new="mx.maximum(self.mel_basis @ magnitude, 1e-6)",
        cause="wrong constant",
    ),
    _quiet(
        "W33",
        "the bandwidth extension's least magnitude taken before the mel bins",
        old="mx.maximum(self.mel_basis @ magnitude, 1e-5)",
        new="self.mel_basis @ mx.maximum(magnitude, 1e-5)",
        cause="eps",
    ),
    _decoded(
        "W34",
        "of a batch of sounds the first alone",
        old="waveform[0] if waveform.shape[0] == 1 else waveform, vocoder",
        new="waveform[0], vocoder",
        case="two",
    ),
    _decoded(
        "W35",
        "one sound with the axis of a batch",
        old="waveform[0] if waveform.shape[0] == 1 else waveform, vocoder",
        new="waveform, vocoder",
        case="base",
    ),
    # ---- arguments that were passed on nowhere
    _factory(
        "W08",
        "guidance by sigma without the negative context that it is given",
        new="return params",
        tap="guided.put",
    ),
    _factory(
        "W09",
        "guidance by sigma that keeps another negative context than it is given",
        new="own = params.negative_context\n"
        "    return replace(params, negative_context=negative_context if own is None else own)",
        tap="guided.put",
    ),
    _marked(
        "W10",
        "the network not told which tokens hold pictures",
        old="        keyframes_mask=state.keyframes_mask,\n    )",
        new="    )",
    ),
    _marked(
        "W11",
        "the network told that every token holds a picture where one does",
        old="        keyframes_mask=state.keyframes_mask,\n    )",
        new="        keyframes_mask=None if (marks := state.keyframes_mask) is None else mx.ones_like(marks),\n    )",
    ),
    _tiled(
        "W12",
        "tiles decoded at the default timestep, whatever was asked",
        old="decoded = self(latent[tile.in_coords], timestep, generator)",
        new="decoded = self(latent[tile.in_coords], None, generator)",
        tap="VideoDecoder",
        cause="wrong input",
        kind="options with one value",
    ),
    _streams(
        "W36",
        "times between the streams as parts of the audio's longest",
        new="return self.audio_positional_embedding_max_pos[0]",
        tap="config.between.23.17",
    ),
    _streams(
        "W37",
        "times between the streams as parts of the video's longest",
        new="return self.positional_embedding_max_pos[0]",
        tap="config.between.17.23",
    ),
    Fault(
        "W38",
        "a video that is not enabled takes from the audio all the same",
        file="block.py",
        old="if video.enabled and not perturbations.all_in_batch(kinds.SKIP_A2V",
        new="if not perturbations.all_in_batch(kinds.SKIP_A2V",
        tap="transformer_blocks.0",
        config="tiny-2.0",
        case="video-frozen",
        cause="skipped term",
        kind="options with one value",
    ),
    # ---- sizes that were never reached
    _tiled(
        "W13",
        "from the third stretch of time on, frames counted from the beginning of the clip",
        old="done = start - begun",
        new="done = start",
        tap="tiled_decode",
        kind="sizes",
    ),
    _tiled(
        "W14",
        "of three stretches of time the first blended with the last",
        old="            last = start, chunk, chunk_weights\n",
        new="            last = last if last and start - last[0] < 12 else (start, chunk, chunk_weights)\n",
        tap="tiled_decode",
        kind="sizes",
    ),
    _plan(
        "W15",
        "tiles of the shorter side rounded down",
        new="int(size * shape[axis] / max(shape[3], shape[4])))",
        case="plan",
    ),
    _plan(
        "W16",
        "tiles of the shorter side of half a cell rounded up",
        new="int(size * shape[axis] / max(shape[3], shape[4]) + 0.5))",
        case="half",
    ),
    _slabs(
        "W18",
        "the first frame of every slab dropped where it is upsampled",
        old="(upsample(x[:, begin:end], begin == 0) for begin, end",
        new="(upsample(x[:, begin:end], True) for begin, end",
        tap="randn",
        cause="padding side",
    ),
    _slabs(
        "W19",
        "slabs with the context of other frames than they see",
        old="told = () if context is None else (context[:, seen], modulation)",
        new="told = () if context is None else (context[:, begin : begin + slab.last - slab.first], modulation)",
        cause="wrong input",
    ),
    _slabs(
        "W20",
        "slabs that do not see the last frame of their windows",
        file="nn/neighborhood.py",
        old="return Slab(frames, begin, end, first, last + min(kernel, frames))",
        new="return Slab(frames, begin, end, first, max(end, last + min(kernel, frames) - (end < frames)))",
        cause="mask",
    ),
    _slabs(
        "W30",
        "the pieces of a large feed-forward layer in reverse order",
        old="for i in range(0, len(tokens), _TOKENS)]",
        new="for i in range(0, len(tokens), _TOKENS)][::-1]",
        cause="axis order",
    ),
    _slabs(
        "W31",
        "some blocks of queries side by side before those on their left",
        file="nn/neighborhood.py",
        old="[_attend(q, k, v, time, line, group) for group in groups]",
        new="[_attend(q, k, v, time, line, group) for group in groups[::-1]]",
        cause="axis order",
    ),
    # ---- files
    _files(
        "W21",
        "what is behind transparent pictures truncated to a step",
        old="+ 127) // 255)",
        new=") // 255)",
        case="pictures",
        tap="picture.on white",
        cause="precision",
    ),
    _files(
        "W22",
        "the shorter side of a picture for Gemma rounded",
        old="int(height * scale), int(width * scale))",
        new="round(height * scale), round(width * scale))",
        case="pictures",
        tap="aspect.37",
        cause="wrong constant",
    ),
    _files(
        "W23",
        "windows of audio truncated to whole samples",
        file="media/audio.py",
        old="waveform[:, : round(min(max_duration, 2**31) * rate)]",
        new="waveform[:, : int(min(max_duration, 2**31) * rate)]",
        case="reading",
        tap="sound.wav.0.123.0.12345",
        cause="precision",
    ),
    _files(
        "W24",
        "PNG frames counted from 1",
        file="media/writing.py",
        old='f"frame_{count:05d}.png"',
        new='f"frame_{count + 1:05d}.png"',
        case="outputs",
        tap="frames.one",
        cause="position/offset",
    ),
    _files(
        "W25",
        "rates as fractions of small numbers",
        file="media/writing.py",
        old="limit_denominator(1001)",
        new="limit_denominator(100)",
        case="written",
        tap="video.3001÷173",
        cause="precision",
    ),
    # ---- command lines
    _line(
        "W26",
        "six digits of each number in the settings",
        file="cli/settings_file.py",
        old='return str(np.format_float_positional(value, trim="0"))',
        new='return f"{value:g}"',
        tap="distilled.settings.call.frame_rate",
        cause="precision",
    ),
    _line(
        "W27",
        "the settings of several videos all with the first one's seed",
        file="cli/settings_file.py",
        old='"prompt": request.prompt, "seed": request.seed}',
        new='"prompt": request.prompt}',
        tap="distilled.several.call.seed",
        cause="wrong input",
    ),
    _line(
        "W28",
        "--num-videos counts from the seed after the one that is given",
        file="cli/several.py",
        old="for number in range(count)]",
        new="for number in range(1, count + 1)]",
        tap="distilled.several.call.seed",
        cause="position/offset",
    ),
    _line(
        "W29",
        "of several LoRAs the first alone says how small references are",
        file="pipelines/ic_lora.py",
        old="{lora_metadata(lora.path).reference_downscale_factor for lora in loras} - {1}",
        new="{lora_metadata(lora.path).reference_downscale_factor for lora in loras[:1]} - {1}",
        case="ic_lora",
        tap="ic_lora.first.init.reference_downscale_factor",
        cause="wrong input",
    ),
)
