"""Media files: read as the reference reads them, written as it writes them, whole or not at all.

Pictures are position-dependent and asymmetric, left and right are different sounds, and the reference's own functions
are the measure wherever it has one.
"""

from __future__ import annotations

import wave
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import mlx.core as mx
import numpy as np
import pytest
import torch
from PIL import Image

import parity.sides.torch  # noqa: F401  it knows how to import what follows
from ltx2_mlx import media
from ltx2_mlx.errors import InputError, MediaError
from ltx2_mlx.media import writing
from ltx2_mlx.media.encoding import CODECS, Encoding
from ltx2_mlx.media.reading import read_coding
from ltx2_mlx.types import Audio

# isort: split
from ltx_core.types import Audio as TorchAudio
from ltx_pipelines.utils import media_io as reference

pytestmark = pytest.mark.reference
CPU = torch.device("cpu")


def clip(frames: int, height: int = 48, width: int = 80) -> np.ndarray:
    """``(F, H, W, 3)`` uint8: red runs down, green to the right, and a blue bar moves 3 pixels a frame."""
    f, y, x = np.ogrid[:frames, :height, :width]
    red, green = np.broadcast_arrays(40 + 180 * y / height + 0 * f, 20 + 200 * x / width)
    blue = np.where((x + 0 * y) // 3 == (f + 2) % (width // 3), 230, 30)
    return np.stack([red, green, blue], axis=-1).astype(np.uint8)


def sound(samples: int, rate: int = 24000) -> Audio:
    """Two chirps of unequal pitch and loudness."""
    t = np.arange(samples) / rate
    left, right = 0.6 * np.sin(2 * np.pi * (300 + 200 * t) * t), 0.3 * np.sin(2 * np.pi * (900 - 100 * t) * t + 1)
    return Audio(mx.array(np.stack([left, right]).astype(np.float32)), rate)


def waveform(audio: Audio | TorchAudio) -> np.ndarray:
    return np.asarray(audio.waveform)


def save_image(path: Path, height: int, width: int, mode: str = "RGB", **options: object) -> Path:
    rng = np.random.default_rng(height)
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([y * 255 // height, x * 255 // width, (x * y) % 251, (x + y) % 256], axis=-1)
    pixels = (pixels + rng.integers(0, 12, pixels.shape)).clip(0, 255).astype(np.uint8)
    Image.fromarray(pixels).convert("RGB" if mode not in ("RGBA", "LA") else "RGBA").convert(mode).save(path, **options)
    return path


# --- pictures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(37, 53), (90, 41)])
def test_the_longer_side_is_set(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    exact = media.resize_aspect_ratio_preserving(pixels.astype(np.float32), 64)
    expected = reference.resize_aspect_ratio_preserving(torch.from_numpy(pixels).float(), 64).numpy()
    np.testing.assert_allclose(exact, expected, rtol=1e-6, atol=1e-6)
    theirs = reference.resize_aspect_ratio_preserving(torch.from_numpy(pixels), 64).numpy()
    step = media.resize_aspect_ratio_preserving(pixels, 64).astype(int) - theirs
    assert abs(step).max() <= 1 and abs(step).mean() < 0.3
    frames = media.resize_aspect_ratio_preserving(np.stack([pixels, pixels[::-1]]), 64)
    assert frames.shape == (2, *expected.shape)
    np.testing.assert_array_equal(frames[0], media.resize_aspect_ratio_preserving(pixels, 64))


def test_compression_changes_a_picture_and_crf_0_does_not(tmp_path: Path) -> None:
    image = media.decode_image(save_image(tmp_path / "a.png", 65, 97))
    assert media.preprocess(image, 0) is image
    compressed = media.preprocess(image)
    assert compressed.shape == (64, 96, 3)
    error = abs(compressed.astype(int) - image[:64, :96]).mean()
    assert 1 < error < 40


@pytest.mark.parametrize("mode", ["L", "LA", "P", "CMYK", "1"])
def test_other_pictures_become_rgb(tmp_path: Path, mode: str) -> None:
    path = save_image(tmp_path / ("a.tif" if mode == "CMYK" else "a.png"), 20, 31, mode)
    with Image.open(path) as image:
        assert image.mode == mode
        opaque = Image.new("RGBA", image.size, "white")
        opaque.alpha_composite(image.convert("RGBA"))
        expected = np.array(opaque.convert("RGB") if mode == "LA" else image.convert("RGB")).astype(int)
    assert abs(media.decode_image(path) - expected).max() <= (1 if mode == "LA" else 0)


def test_pictures_that_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.arange(600, dtype=np.float32).reshape(20, 30)).save(tmp_path / "deep.tif")
    with pytest.raises(MediaError, match=r"deep\.tif: a picture of mode F, expected 8 bits"):
        media.decode_image(tmp_path / "deep.tif")
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(MediaError, match=r"text\.png: not a picture"):
        media.decode_image(tmp_path / "text.png")
    whole = save_image(tmp_path / "whole.png", 90, 90).read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MediaError, match=r"half.png: .*truncated"):
        media.decode_image(tmp_path / "half.png")
    with pytest.raises(MediaError, match=r"no.png: No such file"):
        media.decode_image(tmp_path / "no.png")
    with pytest.raises(InputError, match="2 × 2 and more"):
        media.preprocess(np.zeros((1, 8, 3), np.uint8))
    with pytest.raises(InputError, match="CRF 60"):
        media.preprocess(np.zeros((8, 8, 3), np.uint8), 60)
    with pytest.raises(InputError, match=r"got \(8, 8\)"):
        media.resize_and_center_crop(np.zeros((8, 8)), 4, 4)
    with pytest.raises(InputError, match="cannot be resized"):
        media.resize_aspect_ratio_preserving(np.zeros((1, 800, 3)), 4)


# --- writing and reading back -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frames", "fps", "rate", "samples"),
    [
        (1, 24, None, None),
        (1, 23.976, 24000, 1001),
        (9, 23.976, 48000, 18018),
        (17, 24.0, 24000, 16560),
        (7, 29.97, 44100, 9999),
        (2, 12.34, None, None),
        (25, 25, 16000, 16000),
        (4, Fraction(1, 3), 48000, 1),
    ],
)
def test_what_is_written_is_what_was_given(
    tmp_path: Path, frames: int, fps: float, rate: int | None, samples: int | None
) -> None:
    video, audio = clip(frames), sound(samples, rate) if rate else None
    path = tmp_path / "new" / "clip.mp4"
    media.encode_video(iter([video[:3], video[3:]] if frames > 3 else [video]), fps, audio, path)
    assert [file.name for file in path.parent.iterdir()] == ["clip.mp4"]
    info = media.probe(path)
    assert info == media.MediaInfo(80, 48, frames, media.frame_rate(fps), rate, 2 if rate else None, samples)
    decoded = np.concatenate(list(media.decode_video_from_file(path)))
    difference = abs(decoded[:, None].astype(int) - video).mean(axis=(2, 3, 4))  # each decoded by each given
    assert np.diag(difference).max() < 9
    assert (difference.argmin(axis=1) == np.arange(frames)).all()
    if audio is None:
        assert media.decode_audio_from_file(path) is None
    elif samples > 5000:
        heard = media.decode_audio_from_file(path)
        assert heard.sampling_rate == rate
        given, heard = waveform(audio), waveform(heard)[0, :, :samples]
        correlation = np.corrcoef(given, heard)[:2, 2:]
        assert np.diag(correlation).min() > 0.95 and abs(correlation[[0, 1], [1, 0]]).max() < 0.1
        by_lag = [np.corrcoef(given[0, 2:-2], heard[0, 2 + lag : samples - 2 + lag])[0, 1] for lag in range(-2, 3)]
        assert np.argmax(by_lag) == 2  # not a sample early or late


class Watched:
    """An output container, or its H.264 stream, that notes what reaches the encoder."""

    def __init__(self, target: object, notes: dict[str, object]):
        vars(self).update(target=target, notes=notes)

    def __getattr__(self, name: str) -> object:
        return getattr(self.target, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self.target, name, value)

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *exception: object) -> None:
        self.target.close()

    def add_stream(self, codec: str, rate: Fraction | int, **options: object) -> object:
        stream = self.target.add_stream(codec, rate=rate, **options)
        if codec == "aac":
            return stream
        self.notes.update(codec=codec, rate=Fraction(rate), options=options.get("options", {}), frames=[])
        return Watched(stream, self.notes)

    def encode(self, frame: av.VideoFrame | None = None) -> list[av.Packet]:
        if frame is not None:
            context = self.target.codec_context
            self.notes.update(
                size=(context.width, context.height),
                format=context.pix_fmt,
                bit_rate=context.bit_rate,
                gop=context.gop_size,
            )
            rgb = frame.to_ndarray() if frame.format.name == "rgb24" else None
            self.notes.setdefault("rgb", []).append(rgb)
            self.notes["frames"].append(frame.reformat(format=context.pix_fmt).to_ndarray())
        return self.target.encode(frame)


def bt709(pixels: np.ndarray) -> np.ndarray:
    """``(H × 3 / 2, W)``: the planes of yuv420p in float64, each chroma sample the mean of its four pixels."""
    matrix = np.array([[0.2126, 0.7152, 0.0722]])
    matrix = np.concatenate([matrix, ([[0, 0, 1]] - matrix) / 1.8556, ([[1, 0, 0]] - matrix) / 1.5748])
    y, cb, cr = np.einsum("ij,hwj->ihw", matrix, pixels / 255)
    halves = [c.reshape(c.shape[0] // 2, 2, -1, 2).mean(axis=(1, 3)) for c in (cb, cr)]
    return np.concatenate([(16 + 219 * y).ravel(), *(128 + 224 * c.ravel() for c in halves)]).reshape(-1, y.shape[1])


def test_the_encoder_is_given_the_references_pictures_in_the_colours_of_hd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video, audio = clip(19, 50, 70), sound(18000)
    expected = TorchAudio(torch.from_numpy(waveform(audio) * 1.9), audio.sampling_rate)  # some of it is clipped
    louder = Audio(audio.waveform * 1.9, audio.sampling_rate)
    given: dict[str, dict] = {"theirs.mp4": {}, "ours.mp4": {}}
    opened = av.open

    def watched(path: str, mode: str = "r", **kwargs: object) -> object:
        container = opened(path, mode, **kwargs)
        name = "theirs.mp4" if "theirs" in str(path) else "ours.mp4"
        return Watched(container, given[name]) if mode == "w" else container

    monkeypatch.setattr(av, "open", watched)
    reference.encode_video(torch.from_numpy(video), 24, expected, str(tmp_path / "theirs.mp4"), 1)
    media.encode_video([mx.array(video[:8]), mx.array(video[8:])], 24, louder, tmp_path / "ours.mp4")
    ours, theirs = given["ours.mp4"], given["theirs.mp4"]
    assert len(ours["frames"]) == 19
    del theirs["frames"], ours["rgb"]
    for frame, pixels in zip(ours.pop("frames"), theirs.pop("rgb"), strict=True):
        difference = frame - bt709(pixels)
        assert abs(difference).max() < 1.6 and abs(difference.mean()) < 0.1
    assert (ours.pop("options"), theirs.pop("options")) == (dict(CODECS["h264"].fixed), {})
    assert ours == theirs

    def times(name: str) -> list[Fraction]:
        with av.open(str(tmp_path / name)) as container:
            return sorted(packet.pts * packet.time_base for packet in container.demux(video=0) if packet.size)

    assert times("ours.mp4") == times("theirs.mp4") == [Fraction(i, 24) for i in range(19)]
    ours, theirs = (waveform(media.decode_audio_from_file(tmp_path / name)) for name in ("ours.mp4", "theirs.mp4"))
    np.testing.assert_array_equal(ours, theirs)


CODINGS = {"h264": ".mp4", "hevc": ".mp4", "prores": ".mov"}


@pytest.mark.parametrize("codec", CODINGS)
def test_a_player_shows_the_colours_that_were_given(tmp_path: Path, codec: str) -> None:
    """Red, green, blue and grey from dark to light, and a file that is the same each time."""
    ramp = np.linspace(0, 255, 192).round()[None, :, None]
    rows = [ramp * np.array(colour) for colour in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1))]
    video = np.concatenate([row.repeat(32, 0) for row in rows])[None].repeat(2, 0).astype(np.uint8)
    path, comment = tmp_path / f"ramps{CODINGS[codec]}", "ünusual \U0001f98a" * 9000
    files, encoding = set(), Encoding(codec, crf=None if codec == "prores" else 8)
    for _ in range(2):
        media.encode_video([video], 24, sound(2000), path, encoding=encoding, comment=comment)
        files.add(path.read_bytes())
    assert len(files) == 1 and media.read_comment(path) == comment
    shown = np.concatenate(list(media.decode_video_from_file(path))).astype(int)
    inner = [slice(32 * i + 4, 32 * i + 28) for i in range(4)]  # where two colours meet, their chroma is mixed
    assert max(abs(shown[:, rows] - video[:, rows]).max() for rows in inner) <= 8
    coding = read_coding(path)
    assert (coding.video, coding.colours) == (codec, (1, 1, 1, 1))
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat") and (b"hvc1" in data) is (codec == "hevc")


@pytest.mark.parametrize("options", [{}, {"crf": 0}, {"crf": 51.0}])
def test_every_codec_takes_small_frames_and_every_crf(tmp_path: Path, options: dict) -> None:
    for codec in ("h264", "hevc"):
        for preset in ("ultrafast", None):
            encoding = Encoding(codec, preset=preset, **options)
            media.encode_video([clip(2, 32, 32)], 24, None, tmp_path / "a.mov", encoding=encoding)
    for profile in ("proxy", "hq"):
        media.encode_video([clip(2, 32, 32)], 24, None, tmp_path / "b.mov", encoding=Encoding("prores", preset=profile))


@pytest.mark.parametrize(
    ("matrix", "limits", "stated"), [(1, 1, 1), (5, 1, 5), (5, 1, 6), (9, 1, 9), (5, 1, 2), (1, 2, 1), (5, 2, 5)]
)
def test_the_colours_that_a_clip_states_are_followed(tmp_path: Path, matrix: int, limits: int, stated: int) -> None:
    """Those of BT.709, BT.601 and BT.2020, of a clip that states none, and the full range."""
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [200, 100, 50]], np.uint8)
    pixels = colours.repeat(16, 0)[None].repeat(16, 0)
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"crf": "0"})
        stream.height, stream.width, stream.pix_fmt = 16, 64, "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = stated, limits
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace=matrix, dst_color_range=limits)
        frame.pts = 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    shown = next(media.decode_video_from_file(tmp_path / "clip.mp4"))[0].astype(int)
    assert abs(shown - pixels)[:, 8::16].max() <= 3


def test_the_same_frames_give_the_same_file(tmp_path: Path) -> None:
    """With x264's own options a clip of this kind gave 7 files in 80 encodings on a CPU with AVX-512."""
    blocks = np.random.default_rng(1).integers(0, 256, (42, 50, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    video = np.stack([blocks[i : i + 96, 2 * i : 2 * i + 160] for i in range(30)])
    files, pictures = set(), set()
    for _ in range(20):
        media.encode_video([video], 24, sound(30000), tmp_path / "clip.mp4")
        files.add((tmp_path / "clip.mp4").read_bytes())
        pictures.add(media.preprocess(video[0, :95, :151]).tobytes())
    assert len(files) == len(pictures) == 1


@pytest.fixture(scope="module")
def movie(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("media") / "movie.mp4"
    media.encode_video([clip(13, 50, 70)], 23.976, sound(13013), path)
    return path


@pytest.mark.parametrize("codec", ["pcm_u8", "pcm_s16le", "pcm_s32le", "pcm_f32le", "pcm_f64le"])
def test_every_sample_format_is_read(tmp_path: Path, codec: str) -> None:
    path, audio = tmp_path / "sound.wav", sound(3000)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=24000, layout="stereo")
        frame = av.AudioFrame.from_ndarray(waveform(audio), format="fltp", layout="stereo")
        frame.sample_rate = 24000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    heard = media.decode_audio_from_file(path)
    assert heard.waveform.dtype == mx.float32
    np.testing.assert_allclose(waveform(heard)[0], waveform(audio), rtol=0, atol=2**-7 if codec == "pcm_u8" else 2**-15)
    if codec != "pcm_u8":  # which the reference reads with an offset of 1
        expected = reference.decode_audio_from_file(str(path), CPU)
        np.testing.assert_array_equal(waveform(heard), waveform(expected))


def test_wav_files_hold_the_references_sixteen_bits(tmp_path: Path) -> None:
    values = np.float32([[0, 0.5, -0.5, 1, -1, 1.7, -3, 1e-5], [0.25, -1e-5, 4e-5, -4e-5, 0.9999, -0.9999, 0, 0.1]])
    media.save_wav(tmp_path / "a.wav", Audio(mx.array(values[None]), 48000))
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (2, 2, 48000)
        written = np.frombuffer(file.readframes(99), "<i2").reshape(-1, 2).T
    expected = (torch.from_numpy(values).clip(-1, 1) * 32767.0).to(torch.int16).numpy()
    np.testing.assert_array_equal(written, expected)
    media.save_wav(tmp_path / "mono.wav", Audio(mx.array(values[:1]).astype(mx.bfloat16), 48000))
    assert media.probe(tmp_path / "mono.wav") == media.MediaInfo(sample_rate=48000, channels=2, samples=8)
    left, right = waveform(media.decode_audio_from_file(tmp_path / "mono.wav"))[0]
    np.testing.assert_array_equal(left, right)


def test_png_frames_are_exact(tmp_path: Path) -> None:
    video, folder = clip(7), tmp_path / "new" / "frames"
    assert media.save_png_frames(folder, [clip(12)]) == 12
    assert media.save_png_frames(folder, [video[:3], mx.array(video[3:])]) == 7
    files = sorted(folder.iterdir())
    assert [file.name for file in files] == [f"frame_{i:05d}.png" for i in range(7)]
    np.testing.assert_array_equal([media.decode_image(file) for file in files], video)


def test_progress_counts_chunks(tmp_path: Path) -> None:
    reports: list[tuple] = []
    video = clip(5)
    media.encode_video([video[:2], video[2:]], 24, None, tmp_path / "a.mp4", 2, lambda *report: reports.append(report))
    assert reports == [("encoding video", 1, 2), ("encoding video", 2, 2)]


@pytest.mark.parametrize(
    ("fps", "rate"),
    [
        (24, "24"),
        (1.0, "1"),
        (23.976, "24000/1001"),
        (23.976023976, "24000/1001"),
        (29.97, "30000/1001"),
        (59.94, "60000/1001"),
        (Fraction(30000, 1001), "30000/1001"),
        (23.98, "1199/50"),
        (12.5, "25/2"),
        (1 / 3, "1/3"),
    ],
)
def test_frame_rates(fps: float, rate: str) -> None:
    assert media.frame_rate(fps) == Fraction(rate)


# --- nothing half done ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("existing", [True, False])
def test_an_exception_leaves_no_half_file(tmp_path: Path, error: type[BaseException], existing: bool) -> None:
    def failing() -> Iterator[np.ndarray]:
        yield clip(40)
        assert len(list(tmp_path.glob(".clip.*.mp4"))) == 1
        raise error("stop")

    path = tmp_path / "clip.mp4"
    if existing:
        path.write_text("the one before")
    with pytest.raises(error, match="stop"):
        media.encode_video(failing(), 24, sound(24000), path)
    assert [file.read_text() for file in tmp_path.iterdir()] == (["the one before"] if existing else [])


def test_a_lost_sample_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = writing._write_audio
    monkeypatch.setattr(writing, "_write_audio", lambda file, pcm: write(file, pcm._replace(samples=pcm.samples[:-1])))
    with pytest.raises(MediaError, match=r"samples=2400\), and holds .*samples=2399\)"):
        media.encode_video([clip(3)], 24, sound(2400), tmp_path / "clip.mp4")
    assert not list(tmp_path.iterdir())


def test_a_lost_frame_or_another_rate_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = writing._write_movie

    def lose_a_frame(path: Path, chunks: Iterator[np.ndarray], *rest: object) -> int:
        return write(path, (chunk[:-1] for chunk in chunks), *rest) + 1

    def truncate_the_rate(path: Path, chunks: Iterator, height: int, width: int, rate: Fraction, *rest: object) -> int:
        return write(path, chunks, height, width, Fraction(int(rate)), *rest)

    for fault, message in ((lose_a_frame, "frames=3,.*frames=2,"), (truncate_the_rate, r"1001\),.*Fraction\(23, 1\)")):
        monkeypatch.setattr(writing, "_write_movie", fault)
        with pytest.raises(MediaError, match=message):
            media.encode_video([clip(3)], 23.976, None, tmp_path / "clip.mp4")
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"video": []}, "the video has no frames"),
        ({"video": [np.zeros((0, 48, 80, 3), np.uint8)]}, r"a chunk of uint8 \(0, 48, 80, 3\)"),
        ({"video": [np.zeros((2, 48, 80, 3), np.float32)]}, "a chunk of float32"),
        ({"video": clip(2)}, r"expected uint8 \(F, H, W, 3\)"),
        ({"video": [clip(2), clip(2, 64)]}, "all must have one height and width"),
        ({"video": [clip(2, 47)]}, "80 × 47 pixels; yuv420p takes even sides"),
        ({"fps": 0}, "0 frames per second"),
        ({"fps": float("nan")}, "nan frames per second"),
        ({"output_path": "clip.mkv"}, "ends in .mp4"),
        ({"encoding": Encoding("av1")}, "the codec av1, expected h264, hevc, prores"),
        ({"encoding": Encoding("prores")}, "prores goes into a file that ends in .mov, not .mp4"),
        ({"encoding": Encoding("prores", crf=9), "output_path": "clip.mov"}, "prores has no CRF"),
        (
            {"encoding": Encoding("prores", preset="slow"), "output_path": "clip.mov"},
            "expected proxy, lt, standard, hq",
        ),
        ({"encoding": Encoding("hevc", preset="hq")}, "the preset hq of hevc, expected ultrafast, "),
        ({"encoding": Encoding(crf=51.5)}, "CRF 51.5, expected 0 to 51"),
        ({"encoding": Encoding(crf=float("nan"))}, "CRF nan"),
        ({"audio": Audio(mx.zeros((6, 100)), 24000)}, r"audio of shape \(6, 100\)"),
        ({"audio": Audio(mx.zeros((2, 2, 100)), 24000)}, r"audio of shape \(2, 2, 100\)"),
        ({"audio": Audio(mx.zeros((2, 0)), 24000)}, r"audio of shape \(2, 0\)"),
        ({"audio": Audio(mx.array([[0, float("nan")]]), 24000)}, "NaN"),
        ({"audio": Audio(mx.zeros((2, 100)), 0)}, "audio at 0 Hz"),
    ],
)
def test_refusals_leave_nothing(tmp_path: Path, change: dict, message: str) -> None:
    arguments = {"video": [clip(2)], "fps": 24, "audio": None, "output_path": "clip.mp4"} | change
    arguments["output_path"] = tmp_path / arguments["output_path"]
    with pytest.raises(InputError, match=message):
        media.encode_video(**arguments)
    assert not list(tmp_path.iterdir())


def test_files_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no movie")
    media.save_wav(tmp_path / "a.wav", sound(100))
    for read in (media.probe, media.get_videostream_metadata, media.decode_audio_from_file):
        with pytest.raises(MediaError, match=r"text\.mp4: cannot be read: not a video or audio file of a kind"):
            read(tmp_path / "text.mp4")
        with pytest.raises(MediaError, match=r"no\.mp4: No such file"):
            read(tmp_path / "no.mp4")
    with pytest.raises(MediaError, match="holds no video"):
        media.load_video_conditioning(tmp_path / "a.wav", 32, 32, 1)
    with pytest.raises(InputError, match="frame_cap 0"):
        media.load_video_conditioning(tmp_path / "a.wav", 32, 32, 0)
    with pytest.raises(MediaError, match=r"text\.mp4/clip\.mp4: its folder cannot be made"):
        media.encode_video([clip(1)], 24, None, tmp_path / "text.mp4" / "clip.mp4")
    for window in ((-1.0, None), (0.0, 0.0)):
        with pytest.raises(InputError, match="expected a start"):
            media.decode_audio_from_file(tmp_path / "a.wav", *window)
