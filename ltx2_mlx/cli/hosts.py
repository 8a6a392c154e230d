"""``generate --hosts FILE``: the same command on every machine of a file, through MLX's own launcher.

The launcher reaches the machines, and starts the processes there. It ends with 0 whatever becomes of them, and says on
stderr how each has ended: that is read, and becomes the exit code.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from ..config.reading import cut, parse_json
from ..distributed.ranks import rank_here
from ..distributed.table import SIZES
from ..errors import InputError, RanksError, printable
from .stopping import Signalled

# Those whose ranks the launcher reports on; mpirun has a command of its own.
_BACKENDS = ("ring", "jaccl", "jaccl-ring", "nccl")
_LONGEST = 1 << 20  # bytes of a file of hosts
_ENDED = re.compile(
    rb"(?:\x1b\[\d+m)*\[WARN\] Node with rank (\d+) (?:was killed|exited with code (-?\d+))\s*(?:\x1b\[\d+m)*\s*"
)
_NO_LOGIN = 255  # what ssh ends with where it does not get in
# Where one rank fails, the launcher ends the others with SIGTERM, even one that is about to end by itself.
_TERMINATED = (-signal.SIGTERM, 128 + signal.SIGTERM)
_GRACE = 20.0  # seconds for the ranks to end after a signal


def on_hosts(file: Path, argv: Sequence[str]) -> int:
    """Run ``ltx2-mlx generate`` with these words on the machines of a file, and return the exit code of the first of
    them that failed by itself, 0 where none did. Raises InputError for what cannot be started, RanksError for a machine
    that cannot be reached."""
    if rank_here() is not None:
        raise InputError("--hosts starts the processes, and this is one that mlx.launch has started: leave it out")
    names = read_hosts(file)
    launcher = _launcher()
    program = [sys.executable, "-m", "ltx2_mlx", "generate", *without_hosts(argv)]
    started = subprocess.Popen(
        [launcher, "--hostfile", str(file), "--", *program],
        stdin=subprocess.PIPE,  # which stays open: the launcher would read an end of it again and again
        stderr=subprocess.PIPE,
        process_group=0,  # a signal comes to this process alone, and is passed on to all
    )
    codes = dict[int, int]()
    try:
        _relay(started.stderr, codes)
        own = started.wait()
    except KeyboardInterrupt as stop:
        _stop(started, stop.number if isinstance(stop, Signalled) else signal.SIGINT)
        raise
    for rank, code in codes.items():
        if code == _NO_LOGIN:
            raise RanksError(f"rank {rank}: `ssh {printable(names[rank])}` does not get in, or was cut off")
    failed = [codes[rank] for rank in sorted(codes) if codes[rank]]
    code = next((code for code in failed if code not in _TERMINATED), failed[0] if failed else own)
    return 128 - code if code < 0 else code


def without_hosts(argv: Sequence[str]) -> Iterator[str]:
    """The words but for ``--hosts`` and its value."""
    words = iter(argv)
    for word in words:
        if word == "--hosts":
            next(words, None)
        elif not word.startswith("--hosts="):
            yield word


def read_hosts(file: Path) -> list[str]:
    """The names of the machines, in the order of their ranks. Raises InputError, in one line, for a file that the
    launcher cannot use: ``{"hosts": [{"ssh": "one.local", "ips": ["10.0.0.1"]}, …]}``."""
    place = f"--hosts {cut(str(file))}"
    try:
        if file.exists() and not file.is_file():
            raise InputError(f"{place}: not a regular file")
        with file.open("rb") as opened:
            text = opened.read(_LONGEST).decode("utf-8-sig").strip()
    except (OSError, ValueError) as error:
        raise InputError(f"{place}: {getattr(error, 'strerror', None) or 'not a text in UTF-8'}") from None
    content = parse_json(f'{{"hosts": {text}}}' if text.startswith("[") else text, place, InputError)
    backend, hosts = content.get("backend", ""), content.get("hosts")
    if backend not in ("", *_BACKENDS):
        raise InputError(f"{place}: backend is {cut(repr(backend))}, expected {', '.join(_BACKENDS)} or none")
    if not isinstance(hosts, list) or len(hosts) not in SIZES:
        found = f"{len(hosts)} hosts" if isinstance(hosts, list) else "no list of hosts"
        raise InputError(f"{place}: {found}, expected {' or '.join(map(str, SIZES))}")
    if not _texts(content.get("envs", [])):
        raise InputError(f"{place}: envs is no list of texts")
    return [_name(host, f"{place}: host {rank}") for rank, host in enumerate(hosts)]


def _name(host: Any, place: str) -> str:
    if not (isinstance(host, dict) and isinstance(name := host.get("ssh"), str) and name and not name.startswith("-")):
        raise InputError(f'{place} has no name: expected {{"ssh": "one.local", "ips": ["10.0.0.1"]}}')
    if not (_texts(ips := host.get("ips")) and ips):
        raise InputError(f'{place}, {cut(name)}, has no "ips", at which the others reach it')
    return name


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _launcher() -> str:
    """The path of MLX's launcher, beside this Python or in the path."""
    beside = Path(sys.executable).with_name("mlx.launch")
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("mlx.launch")
    if found is None:
        raise InputError("--hosts needs mlx.launch, which MLX installs beside its Python: pip install mlx")
    return found


def _relay(stream: IO[bytes] | None, codes: dict[int, int]) -> None:
    """Pass on what is written to a launcher's stderr, but for how a rank has ended, which goes into ``codes``."""
    for line in stream or ():
        for ended in _ENDED.finditer(line):
            if ended[2] is not None:
                codes[int(ended[1])] = int(ended[2])
        if rest := _ENDED.sub(b"", line):
            with suppress(OSError, ValueError):
                os.write(2, rest)


def _stop(started: subprocess.Popen[bytes], number: int) -> None:
    """Pass a signal on to the launcher and its processes on this machine, and wait until they have ended; what they say
    of it is not shown."""
    for signum, seconds in ((number, _GRACE), (signal.SIGTERM, _GRACE), (signal.SIGKILL, None)):
        with suppress(ProcessLookupError):
            os.killpg(started.pid, signum)
        with suppress(subprocess.TimeoutExpired):
            started.communicate(timeout=seconds)
            return
