"""Weights by repository name: the real huggingface_hub, in a process of its own, against a small server here."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ltx2_mlx.errors import CheckpointError, HubError
from ltx2_mlx.loading.hub import GEMMA_PATTERNS, resolve

COMMIT = "a" * 40
REPOSITORIES = {
    "owner/gemma": [
        "config.json",
        "model-1.safetensors",
        "tokenizer.model",
        "README.md",
        "original/old.safetensors",
        "tokenizer_gemma.py",
    ],
    "owner/ltx": ["ltx.safetensors", "loras/zoom.safetensors"],
    "owner/papers": ["README.md"],
}
HEADER = {
    "layers.0.weight": {"dtype": "BF16", "shape": [3, 5], "data_offsets": [0, 30]},
    "layers.1.weight": {"dtype": "F32", "shape": [4], "data_offsets": [30, 46]},
    "__metadata__": {"model_version": "2.0.0"},
}
LOOK_UP = """
import json, sys
from ltx2_mlx.errors import HubError
from ltx2_mlx.loading.hub import look_up
for reference, patterns in json.loads(sys.argv[1]):
    try:
        found = look_up(reference, patterns)
        print(found.size, found.metadata, {key: (info.shape, info.nbytes) for key, info in found.tensors.items()})
    except HubError as error:
        print(error)
"""
SCRIPT = """
import json, sys, time
time.sleep = lambda seconds: None  # huggingface_hub waits between its tries
from ltx2_mlx.errors import HubError
from ltx2_mlx.loading.hub import resolve
for reference, patterns in json.loads(sys.argv[1]):
    try:
        print(resolve(reference, patterns))
    except HubError as error:
        print(error)
"""


def content(repository: str, file: str) -> bytes:
    if file.endswith(".safetensors"):
        header = json.dumps(HEADER).encode()
        return struct.pack("<Q", len(header)) + header + f"{repository} {file}".encode()
    return f"{repository} {file}".encode()


class Hub(BaseHTTPRequestHandler):
    """As much of Hugging Face's protocol as a download takes."""

    requests: list[str]

    def do_HEAD(self) -> None:
        self.respond()

    def do_GET(self) -> None:
        self.respond()

    def respond(self) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            repository, rest = "/".join(parts[2:4]), parts[4:]
        else:
            repository, rest = "/".join(parts[:2]), parts[2:]
        files = REPOSITORIES.get(repository)
        if repository == "owner/gated":
            self.reply(403, error="GatedRepo")
        elif files is None:
            self.reply(404, error="RepoNotFound")
        elif not rest or rest[0] == "revision":
            siblings = [{"rfilename": file, "size": len(content(repository, file))} for file in files]
            self.reply(200, json.dumps({"id": repository, "sha": COMMIT, "siblings": siblings}).encode())
        elif rest[0] == "tree":
            tree = [{"type": "file", "path": f, "size": len(content(repository, f)), "oid": "0" * 40} for f in files]
            self.reply(200, json.dumps(tree).encode())
        elif (file := "/".join(rest[2:])) in files:
            self.reply(200, content(repository, file))
        else:
            self.reply(404, error="EntryNotFound")

    def reply(self, status: int, body: bytes = b"", error: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        if error:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Not to stderr."""


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.requests = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def resolved(
    home: Path, endpoint: str, references: list[tuple[str, tuple | None]], script: str = SCRIPT, **environment: str
) -> list[str]:
    """The result of each reference in a new process: a path or an error, one line each."""
    variables = os.environ | {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_TELEMETRY": "1"}
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE"):
        variables.pop(name, None)
    command = [sys.executable, "-c", script, json.dumps(references)]
    run = subprocess.run(command, env=variables | environment, capture_output=True, text=True, timeout=120, check=True)
    return run.stdout.splitlines()


def test_files_are_fetched_once_and_errors_say_why(tmp_path: Path, server: ThreadingHTTPServer) -> None:
    endpoint = f"http://127.0.0.1:{server.server_port}"
    gemma, file, lora, *failures = resolved(
        tmp_path,
        endpoint,
        [
            ("owner/gemma", GEMMA_PATTERNS),
            ("owner/ltx/ltx.safetensors", None),
            ("owner/ltx/loras/zoom.safetensors", None),
            ("owner/ltx/other.safetensors", None),
            ("owner/gated/ltx.safetensors", None),
            ("owner/gated", GEMMA_PATTERNS),
            ("owner/nothing", GEMMA_PATTERNS),
            ("nobody/ltx/ltx.safetensors", None),
            ("owner/papers", GEMMA_PATTERNS),
            ("owner--x/gemma", GEMMA_PATTERNS),
        ],
    )
    assert sorted(p.name for p in Path(gemma).rglob("*")) == ["config.json", "model-1.safetensors", "tokenizer.model"]
    assert Path(gemma, "tokenizer.model").read_bytes() == content("owner/gemma", "tokenizer.model")
    assert Path(file).read_bytes() == content("owner/ltx", "ltx.safetensors")
    assert Path(lora).read_bytes() == content("owner/ltx", "loras/zoom.safetensors")
    missing, gated, gated_too, no_repository, no_owner, no_match, invalid = failures
    assert missing == (f"owner/ltx: the repository has no file other.safetensors; see {endpoint}/owner/ltx/tree/main")
    assert gated == gated_too and f"Accept its terms at {endpoint}/owner/gated, then log in" in gated
    assert no_repository.startswith("owner/nothing: no such path here, and no such repository at")
    assert no_owner.startswith("nobody/ltx: no such path here, and no such repository at")
    assert (
        no_match
        == "owner/papers: the repository has no file like *.safetensors, *.json, tokenizer.model, chat_template.jinja"
    )
    assert invalid.startswith("owner--x/gemma: no such path here, and the name is not a repository's")

    references = [("owner/ltx/ltx.safetensors", None), ("owner/gemma", GEMMA_PATTERNS)]
    server.requests.clear()
    assert resolved(tmp_path, endpoint, references) == [file, gemma]
    assert server.requests and not [request for request in server.requests if request.startswith("GET /owner")]
    server.requests.clear()
    more = [("owner/ltx/loras/pan.safetensors", None), ("owner/gemma-2", GEMMA_PATTERNS)]
    *cached, no_file, no_folder = resolved(tmp_path, endpoint, references + more, HF_HUB_OFFLINE="1")
    assert cached == [file, gemma] and not server.requests
    assert "loras/pan.safetensors is not in the cache" in no_file and "HF_HUB_OFFLINE is set" in no_file
    assert "owner/gemma-2: a whole copy of it is not in the cache" in no_folder and "HF_HUB_OFFLINE is set" in no_folder


def test_sizes_and_headers_are_read_without_a_download(tmp_path: Path, server: ThreadingHTTPServer) -> None:
    endpoint = f"http://127.0.0.1:{server.server_port}"
    references = [
        ("owner/ltx/ltx.safetensors", None),
        ("owner/gemma", GEMMA_PATTERNS),
        ("owner/ltx/other.safetensors", None),
        ("owner/gated", GEMMA_PATTERNS),
        ("nobody/ltx/ltx.safetensors", None),
    ]
    file, gemma, *failures = resolved(tmp_path, endpoint, references, LOOK_UP)
    tensors = "{'layers.0.weight': ((3, 5), 30), 'layers.1.weight': ((4,), 16)}"
    assert file == f"46 {{'model_version': '2.0.0'}} {tensors}"
    size = sum(len(content("owner/gemma", name)) for name in ("config.json", "model-1.safetensors", "tokenizer.model"))
    assert gemma == f"{size} {{}} {tensors}"  # of the files that are fetched
    missing, gated, no_owner = failures
    assert missing.startswith("owner/ltx: the repository has no file other.safetensors")
    assert "Accept its terms" in gated and "no such repository" in no_owner
    assert not [path for path in tmp_path.rglob("*") if path.name in ("ltx.safetensors", "snapshots")]
    (unreachable,) = resolved(tmp_path, "http://127.0.0.1:9", references[:1], LOOK_UP)
    assert "ltx.safetensors is not in the cache" in unreachable and "cannot be reached" in unreachable


def test_without_a_connection_the_cache_serves(tmp_path: Path) -> None:
    snapshot = tmp_path / "hub" / "models--owner--ltx" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "ltx.safetensors").write_text("weights")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(COMMIT)
    references = [("owner/ltx/ltx.safetensors", None), ("owner/gemma", GEMMA_PATTERNS)]
    found, missing = resolved(tmp_path, "http://127.0.0.1:9", references)  # the port where nobody listens
    assert Path(found) == snapshot / "ltx.safetensors"
    assert "owner/gemma: a whole copy of it is not in the cache" in missing
    assert "127.0.0.1:9 cannot be reached" in missing


def test_a_path_that_exists_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "gemma").mkdir(parents=True)
    (tmp_path / "owner" / "gemma" / "a.safetensors").touch()
    assert resolve("owner/gemma", GEMMA_PATTERNS) == Path("owner/gemma")
    assert resolve("owner/gemma/a.safetensors") == Path("owner/gemma/a.safetensors")
    assert resolve(tmp_path) == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("~/owner") == tmp_path / "owner"


@pytest.mark.parametrize(
    ("reference", "patterns", "message"),
    [
        (
            "ltx.safetensors",
            None,
            "ltx.safetensors: no such file or folder, and the name is not of the form owner/name/file",
        ),
        ("models/ltx.safetensors", None, "and the name is not of the form owner/name/file.safetensors"),
        ("/models/owner/ltx.safetensors", None, "and the name is not of the form owner/name/file.safetensors"),
        ("owner/name/notes.txt", None, "and the name is not of the form owner/name/file.safetensors"),
        ("owner/name/../../x.safetensors", None, "and the name is not of the form owner/name/file.safetensors"),
        ("owner/name", None, "add its name: owner/name/FILE.safetensors"),
        (
            "gemma",
            GEMMA_PATTERNS,
            "gemma: no such file or folder, and the name is not a repository's, of the form owner/name",
        ),
        ("./owner/gemma", GEMMA_PATTERNS, "and the name is not a repository's"),
        ("owner/ltx.safetensors", GEMMA_PATTERNS, "and the name is not a repository's"),
    ],
)
def test_what_is_no_name_is_refused_without_asking(reference: str, patterns: tuple | None, message: str) -> None:
    with pytest.raises(HubError, match=message.replace(".", r"\.")) as error:
        resolve(reference, patterns)
    assert isinstance(error.value, CheckpointError)


def test_no_message_holds_the_credentials_of_the_endpoint(tmp_path: Path, server: ThreadingHTTPServer) -> None:
    fails = ["owner/gated/ltx.safetensors", "nobody/ltx/ltx.safetensors"]
    hosts = (f"user:hunter2@127.0.0.1:{server.server_port}", "hunter2@a b", "user:hunter2@127.0.0.1:9")  # 9: nobody's
    for host in hosts:
        said = resolved(tmp_path, f"http://{host}", [(name, None) for name in fails])
        for name, line in zip(fails, said, strict=True):
            assert line.startswith(name.rpartition("/")[0]) and "hunter2" not in line, (host, line)
