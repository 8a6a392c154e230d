"""``generate --hosts FILE``: the words that MLX's launcher gets, its exit code and signals, and what it cannot use."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ltx2_mlx.cli import hosts
from ltx2_mlx.cli.main import main

HOST = {"ssh": "127.0.0.1", "ips": ["127.0.0.1"]}


def written(folder: Path, content: Any) -> Path:
    path = folder / "hosts.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.fixture
def words(checkpoints: Path, tmp_path: Path) -> list[str]:
    """A video of noise, which no rank computes."""
    files = ["--distilled-checkpoint-path", str(checkpoints / "tiny-2.0.safetensors")]
    files += ["--spatial-upsampler-path", str(checkpoints / "tiny-2.0-upsampler-x2.safetensors")]
    files += ["--gemma-root", str(checkpoints / "tiny-gemma")]
    size = ["--height", "64", "--width", "64", "--num-frames", "9", "--no-audio"]
    return ["generate", *files, *size, "--prompt", "a fox's den", "--output-path", str(tmp_path / "fox.mp4"), "--quiet"]


def test_a_problem_of_the_first_of_two_hosts_is_said_once_and_its_exit_code_is_that_of_the_command(
    words: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Through MLX's launcher, with two processes of this machine. tests/test_ranks.py has what ranks make."""
    file = written(tmp_path, {"backend": "ring", "hosts": [HOST, HOST]})
    (tmp_path / "fox.mp4").touch()
    assert main([*words, f"--hosts={file}"]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("1 problem:\n") == err.count("--overwrite") == 1, err
    assert "each of 2 ranks holds" in err  # they have met


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "No such file or directory"),
        ("", "empty: download it again"),
        ("[{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("3", "a JSON int, expected an object"),
        ({}, "no list of hosts, expected 2 or 4"),
        ([HOST], "1 hosts, expected 2 or 4"),
        ([HOST] * 3, "3 hosts, expected 2 or 4"),
        ([HOST, "two.local"], "host 1 has no name: expected"),
        ([HOST, {"ssh": "-oProxyCommand=x", "ips": ["::1"]}], "host 1 has no name: expected"),
        ([HOST, {"ssh": "two.local", "ips": []}], 'host 1, two.local, has no "ips", at which the others reach it'),
        ({"hosts": [HOST] * 2, "backend": "mpi"}, "backend is 'mpi', expected ring, jaccl, jaccl-ring, nccl or none"),
        ({"hosts": [HOST] * 2, "envs": {"A": 1}}, "envs is no list of texts"),
    ],
)
def test_a_file_that_the_launcher_cannot_use_is_one_line(
    content: Any, expected: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "none.json" if content is None else written(tmp_path, content)
    assert main([*words, "--hosts", str(file)]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"ltx2-mlx: --hosts {file}") and err.count("\n") == 1, err
    assert expected in err


def test_what_cannot_be_launched_is_one_line(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = [*words, "--hosts", str(written(tmp_path, [HOST, HOST]))]
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(line) == 2
    assert capsys.readouterr().err.startswith("ltx2-mlx: --hosts needs mlx.launch, which MLX installs")
    monkeypatch.setenv("MLX_RANK", "1")
    monkeypatch.setenv("MLX_HOSTFILE", line[-1])
    assert main(line) == 2
    assert capsys.readouterr().err.startswith("ltx2-mlx: --hosts starts the processes, and this is one that")
    of_stdin = [word for word in line if word not in ("--prompt", "a fox's den")]
    with pytest.raises(SystemExit):  # before anything is started
        main([*of_stdin, "--prompts-file", "-"])
    assert "the standard input of one of several processes has no end" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["plan", *line[1:]])
    assert "unrecognized arguments: --hosts" in capsys.readouterr().err


def pretended(folder: Path, script: str) -> Path:
    """A launcher that runs a shell's script."""
    launcher = folder / "mlx.launch"
    launcher.write_text(f"#!/bin/sh\n{script}\n")
    launcher.chmod(0o755)
    return launcher


WARNED = "\\033[33m[WARN] Node with rank %s \\033[0m\\n"


@pytest.mark.parametrize(
    ("script", "code", "said"),
    [
        ("exit 0", 0, ""),
        ("exit 3", 3, ""),
        (f'printf "a line\\n{WARNED % "1 exited with code 2"}{WARNED % "0 was killed"}" >&2', 2, "a line\n"),
        (f'printf "{WARNED % "1 exited with code 2"}{WARNED % "0 exited with code 4"}" >&2', 4, ""),
        (f'printf "{WARNED % "0 exited with code -9"}" >&2', 137, ""),
        (f'printf "{WARNED % "1 exited with code 2"}{WARNED % "0 exited with code -15"}" >&2', 2, ""),
        (f'printf "{WARNED % "1 exited with code 2"}{WARNED % "0 exited with code 143"}" >&2', 2, ""),
        (f'printf "{WARNED % "1 exited with code 143"}" >&2', 143, ""),
        (f'printf "half{WARNED % "0 exited with code 5"}" >&2', 5, "half"),
    ],
)
def test_the_exit_code_is_that_of_the_first_rank_that_failed(
    script: str,
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(hosts, "_launcher", lambda: str(pretended(tmp_path, script)))
    assert hosts.on_hosts(written(tmp_path, [HOST, HOST]), []) == code
    assert capfd.readouterr().err == said


def test_the_launcher_gets_the_same_words_but_for_the_hosts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hosts, "_launcher", lambda: str(pretended(tmp_path, 'printf "%s\\n" "$@"')))
    file = written(tmp_path, [HOST, HOST])
    given = ["--prompt", "two words", "--hosts", str(file), "--seed", "-1", f"--hosts={file}", "--image", "a", "0", "1"]
    assert hosts.on_hosts(file, given) == 0
    program = [sys.executable, "-m", "ltx2_mlx", "generate", "--prompt", "two words", "--seed", "-1"]
    program += ["--image", "a", "0", "1"]
    assert capfd.readouterr().out.splitlines() == ["--hostfile", str(file), "--", *program]


def test_a_machine_that_ssh_does_not_reach_is_named(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    script = f'printf "{WARNED % "1 exited with code 255"}{WARNED % "0 was killed"}" >&2'
    monkeypatch.setattr(hosts, "_launcher", lambda: str(pretended(tmp_path, script)))
    file = written(tmp_path, [HOST, {"ssh": "two.local", "ips": ["10.0.0.2"]}])
    assert main([*words, "--hosts", str(file)]) == 2
    assert capfd.readouterr().err == "ltx2-mlx: rank 1: `ssh two.local` does not get in, or was cut off\n"


def test_ctrl_c_comes_to_the_launcher_and_to_all_that_it_started(words: list[str], tmp_path: Path) -> None:
    """As the launcher does, one process waits for another, which ends a moment after the signal."""
    child = (
        f"trap 'sleep 0.3; echo > {tmp_path}/ended; exit' INT; echo > {tmp_path}/begun; while :; do sleep 0.05; done"
    )
    launcher = pretended(tmp_path, f'trap : INT; sh -c "{child}"; exit 1')
    code = "import sys; from ltx2_mlx.cli import hosts, main; hosts._launcher = lambda: sys.argv[1]; "
    code += "sys.exit(main.main(sys.argv[2:]))"
    file = written(tmp_path, [HOST, HOST])
    command = [sys.executable, "-c", code, str(launcher), *words, "--hosts", str(file)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as run:
        while run.poll() is None and not (tmp_path / "begun").exists():
            time.sleep(0.05)
        run.send_signal(signal.SIGINT)
        _, err = run.communicate(timeout=60)
    assert (run.returncode, err) == (130, "ltx2-mlx: stopped; nothing was written\n")
    assert (tmp_path / "ended").exists()
