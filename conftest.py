"""What all tests share: the tiny checkpoints, built once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["MLX_ENABLE_TF32"] = "0"  # before MLX is imported: see parity/__init__.py


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", choices=("cpu", "gpu"), help="where MLX runs (default: its own choice)")
    parser.addoption("--kills", type=int, default=4, help="how often generate is killed (tests/test_output_files.py)")
    parser.addoption("--settings", type=int, default=40, help="of plan and generate (tests/test_plan_agrees.py)")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """The number for ``-n auto``: a worker holds torch and a reference model, and not every machine has the memory."""
    from parity.run.pool import jobs_for_workers

    return jobs_for_workers()


def pytest_configure(config: pytest.Config) -> None:
    import mlx.core as mx

    if device := config.getoption("--device"):
        mx.set_default_device(getattr(mx, device))


@pytest.fixture(scope="session", autouse=True)
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The list of this machine's files stays as it is: the tests' own is elsewhere."""
    from ltx2_mlx.cli import places

    own = tmp_path_factory.mktemp("places") / "places.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(places, "file", lambda: own)
        yield


@pytest.fixture(scope="session")
def checkpoints() -> Path:
    """The folder of the tiny checkpoints, checked against their pinned hashes."""
    from parity.declare.inputs import FIXTURES
    from parity.sides.fixtures import ensure_fixtures

    ensure_fixtures()
    return FIXTURES
