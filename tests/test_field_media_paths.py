"""Media files as a way into the machine: no address, playlist, pattern or device is opened."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from media_files import BLUE, colours, corners, png_of_size, refused, seen, write_clip
from PIL import Image

from ltx2_mlx import media
from ltx2_mlx.errors import MediaError
from ltx2_mlx.media import files

READERS = (media.decode_image, media.probe, media.get_videostream_metadata, media.decode_audio_from_file)


@pytest.fixture
def server() -> object:
    """A web server that notes who asks."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(404)
            self.end_headers()

        def log_message(self, *args: object) -> None: ...

    http = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}", asked
    http.shutdown()
    thread.join()


@pytest.mark.parametrize("read", READERS)
def test_nothing_but_a_local_file_is_opened(
    tmp_path: Path, server: tuple[str, list[str]], read: Callable[[Path], object]
) -> None:
    url, asked = server
    clip = write_clip(tmp_path / "clip.ts")
    names = [f"{url}/a.mp4", f"concat:{clip}|{clip}", f"file:{clip}", "pipe:0", f"subfile,,start,0,end,0,,:{clip}"]
    names += [f"async:{clip}", "lavfi:testsrc", "data:image/png;base64,AAAA", f"cache:{clip}", f"crypto:{clip}", "\0"]
    for name in names:
        with pytest.raises(MediaError) as caught:
            read(name)
        assert "\n" not in str(caught.value)
    assert asked == []


PLAYLISTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{0}\n#EXT-X-ENDLIST\n",
    "hls after a blank": "\n#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{0}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile '{0}'\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>{0}</BaseURL></MPD>',
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    "pls": "[playlist]\nFile1={0}\n",
    "smil": '<smil><body><video src="{0}"/></body></smil>',
    "asx": '<asx version="3.0"><entry><ref href="{0}"/></entry></asx>',
    "rtsp": "RTSPtextrtsp://127.0.0.1/",
    "imf": '<CompositionPlaylist xmlns="http://www.smpte-ra.org/schemas/2067-3/2016">{0}</CompositionPlaylist>',
}


@pytest.mark.parametrize("suffix", [".mp4", ".m3u8", ".png", ".mpd", ".sdp", ".concat", ""])
@pytest.mark.parametrize("kind", PLAYLISTS)
def test_a_playlist_under_any_name_opens_no_other_file(
    tmp_path: Path, server: tuple[str, list[str]], kind: str, suffix: str
) -> None:
    url, asked = server
    clip = write_clip(tmp_path / "secret.ts")
    for target in (f"{url}/a.ts", str(clip), clip.name):
        path = tmp_path / f"list{suffix}"
        path.write_text(PLAYLISTS[kind].format(target))
        for read in READERS:
            refused(lambda path=path, read=read: read(path), path)
    assert asked == []


def test_a_name_is_never_a_pattern_of_names(tmp_path: Path) -> None:
    """FFmpeg takes ``a%d.png`` for a series of pictures."""
    for i in range(3):
        Image.fromarray(corners()).save(tmp_path / f"a{i}.png")
    Image.fromarray(corners()[::-1]).save(tmp_path / "a%d.png")
    assert len(seen(tmp_path / "a%d.png")) == 1 and colours(seen(tmp_path / "a%d.png")[0])[0] == BLUE
    refused(lambda: media.probe(tmp_path / "b%d.png"), tmp_path / "b%d.png")
    named = write_clip(tmp_path / "plain.mp4").rename(tmp_path / "concat:a|b.mp4")
    assert len(seen(named)) == 6


def test_pipes_devices_and_folders_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.mp4")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    for path in (tmp_path / "fifo.mp4", tmp_path / "folder.png", tmp_path / "loop.png", Path("/dev/zero")):
        for read in READERS:
            refused(lambda path=path, read=read: read(path), path)


def test_only_demuxers_that_open_nothing_else_are_allowed() -> None:
    allowed = set(files.OPTIONS["format_whitelist"].split(","))
    openers = {
        "hls",
        "concat",
        "dash",
        "sdp",
        "rtsp",
        "image2",
        "imf",
        "webm_dash_manifest",
        "lavfi",
        "applehttp",
        "vapoursynth",
    }
    assert not allowed & openers and files.OPTIONS["protocol_whitelist"] == "file"


def test_decoding_a_large_picture_takes_bounded_memory(tmp_path: Path) -> None:
    """One of 2.7 GB is refused from its header: what is allocated meanwhile stays below 200 MB."""
    script = (
        "import resource, sys; from ltx2_mlx.media.images import decode_image\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize() if sys.argv[2:] else 2**40\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 200_000_000, -1))\n"
        "try: decode_image(sys.argv[1])\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    (tmp_path / "bomb.png").write_bytes(png_of_size(30000, 30000))
    argv = [sys.executable, "-c", script, str(tmp_path / "bomb.png"), *(["limited"] if sys.platform == "linux" else [])]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.stdout.startswith("MediaError") and "at most" in done.stdout, done
