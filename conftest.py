"""What all tests share: the tiny checkpoints, built once."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest

# The files that take longest are begun first, or else a worker is left alone with one of them at the end.
SLOW = ("test_debug", "test_streamed", "test_faults", "test_output_files", "test_generate", "test_wheel", "test_text")
SLOW += ("test_pipelines", "test_gate", "test_command_line", "test_field_weights", "test_video", "test_selftest")
SLOW += ("test_documents", "test_checkpoints", "test_paging", "test_plan", "test_hub", "test_making")
os.environ["MLX_ENABLE_TF32"] = "0"  # before MLX is imported: see parity/__init__.py


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", choices=("cpu", "gpu"), help="where MLX runs (default: its own choice)")
    parser.addoption("--checkpoint", help="a file of 48 blocks of the released size (parity/tests/test_streamed.py)")
    parser.addoption("--kills", type=int, default=4, help="how often generate is killed (tests/test_output_files.py)")
    parser.addoption("--settings", type=int, default=40, help="of plan and generate (tests/test_plan_agrees.py)")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """The number for ``-n auto``: a worker holds torch and a reference model, and not every machine has the memory."""
    from parity.run.pool import jobs_for_workers

    return jobs_for_workers()


def pytest_configure(config: pytest.Config) -> None:
    import mlx.core as mx

    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # so a shell begins what is to run in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)  # or else no child of a test hears a Ctrl-C either
    if device := config.getoption("--device"):
        mx.set_default_device(getattr(mx, device))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: SLOW.index(item.path.stem) if item.path.stem in SLOW else len(SLOW))


def pytest_collection(session: pytest.Session) -> None:
    gc.disable()


def pytest_collection_finish(session: pytest.Session) -> None:
    """What has been imported stays: looking through it for garbage again and again takes 5 to 10 % of a run, and of the
    imports themselves a sixth."""
    gc.collect()
    gc.freeze()
    gc.enable()
    gc.set_threshold(100_000, 50)


@pytest.fixture(scope="session", autouse=True)
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The list of this machine's files stays as it is: the tests' own is elsewhere."""
    from ltx2_mlx.cli import places

    own = tmp_path_factory.mktemp("places") / "places.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(places, "file", lambda: own)
        yield


@pytest.fixture(scope="session", autouse=True)
def verbs() -> None:
    """Every verb is imported before a test plants a fault: one that is imported then would keep that copy's classes."""
    from parity.cli import parser

    parser()


@pytest.fixture(scope="session")
def checkpoints() -> Path:
    """The folder of the tiny checkpoints, checked against their pinned hashes."""
    from parity.declare.inputs import FIXTURES
    from parity.sides.fixtures import ensure_fixtures

    ensure_fixtures()
    return FIXTURES


@cache
def _measured(device: str, lanes: str = "ABC") -> Any:
    from parity.run.calibration import measure

    return measure(device, lanes)


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """``parity run`` and its like judge their cells here: a process of its own imports torch anew, for ten seconds. How
    well the device rounds is measured once a worker."""

    def spread(
        work: Callable[[Any], Any], tasks: Sequence[Any], *options: object, finished: Callable[[], None]
    ) -> Iterator[Any]:
        for task in tasks:
            result = work(task)
            finished()
            yield result

    monkeypatch.setattr("parity.run.loop.spread", spread)
    monkeypatch.setattr("parity.run.loop.measure", _measured)
    monkeypatch.setattr("parity.run.loop.gc.set_threshold", lambda *numbers: None)
    monkeypatch.setattr("parity.run.loop.keep_freed_memory", lambda: None)


def _shorten_prompts(patch: pytest.MonkeyPatch) -> None:
    from ltx2_mlx.text.tokenizer import LTXVGemmaTokenizer

    patch.setattr("ltx2_mlx.pipelines.prompts.LTXVGemmaTokenizer", partial(LTXVGemmaTokenizer, max_length=128))
    patch.setattr("ltx2_mlx.pipelines.contexts.MAX_LENGTH", 128)


@pytest.fixture
def short_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts are encoded in 128 tokens, not in 1024: with those, encoding takes most of a tiny run."""
    _shorten_prompts(monkeypatch)


@pytest.fixture(scope="module")
def short_prompts_throughout() -> Iterator[None]:
    """The same for all of a module, its own fixtures as well."""
    with pytest.MonkeyPatch.context() as patch:
        _shorten_prompts(patch)
        yield


@contextmanager
def _few_steps() -> Iterator[None]:
    from ltx2_mlx.diffusion.schedulers import DISTILLED_SIGMA_VALUES, STAGE_2_DISTILLED_SIGMA_VALUES

    lists = DISTILLED_SIGMA_VALUES, STAGE_2_DISTILLED_SIGMA_VALUES
    kept = [list(values) for values in lists]
    for values, fewer in zip(lists, ([1.0, 0.725, 0.0], [0.909375, 0.0]), strict=True):
        values[:] = fewer
    yield
    for values, all_of_them in zip(lists, kept, strict=True):
        values[:] = all_of_them


@pytest.fixture
def few_steps() -> Iterator[None]:
    """The distilled model takes 2 and 1 steps, not 8 and 3."""
    with _few_steps():
        yield


@pytest.fixture(scope="module")
def few_steps_throughout() -> Iterator[None]:
    """The same for all of a module, its own fixtures as well."""
    with _few_steps():
        yield


@pytest.fixture(scope="session", autouse=True)
def headers_read_once() -> Iterator[None]:
    """Whatever is loaded, the file's header is read twice or more: here those of the tiny checkpoints once a worker."""
    from ltx2_mlx.loading import header
    from parity.declare.inputs import FIXTURES

    read = cache(header.read_header)

    def read_header(path: Path) -> tuple[dict[str, str], header.Tensors]:
        metadata, tensors = (read if path.is_relative_to(FIXTURES) else header.read_header)(path)
        return dict(metadata), dict(tensors)

    with pytest.MonkeyPatch.context() as patch:
        for module in ("loading.checkpoint", "loading.gemma", "loading.lora", "cli.downloads"):
            patch.setattr(f"ltx2_mlx.{module}.read_header", read_header)
        yield


@pytest.fixture(scope="module")
def built_once(checkpoints: Path) -> Iterator[None]:
    """``plan`` builds every network to see that they fit: here those of the tiny checkpoints once."""
    from ltx2_mlx.loading import load

    @cache
    def built(component: str, path: Path) -> Any:
        return load.build(component, headers[path])

    def build(component: str, checkpoint: Any) -> Any:
        if not (isinstance(checkpoint.path, Path) and checkpoint.path.is_relative_to(checkpoints)):
            return load.build(component, checkpoint)
        headers[checkpoint.path] = checkpoint
        return built(component, checkpoint.path)

    headers: dict[Path, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        for module in ("cli.plan", "cli.memory", "pipelines.prompts"):
            patch.setattr(f"ltx2_mlx.{module}.build", build)
        yield


@cache
def _loaded(component: str, path: Path, dtype: Any) -> Any:
    from ltx2_mlx.loading import load

    return load.load(component, path, dtype)


@pytest.fixture
def loaded_once(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run loads each network anew: here those of the tiny checkpoints around the transformer once a worker, for tests
    of what a run makes. The transformer is changed after it was loaded."""
    from ltx2_mlx.loading import load

    def once(component: str, path: Any, dtype: Any = None, **options: Any) -> Any:
        tiny = isinstance(path, str | Path) and Path(path).is_relative_to(checkpoints)
        if component == "transformer" or any(options.values()) or not tiny:
            return load.load(component, path, dtype, **options)
        return _loaded(component, Path(path), dtype)

    for module in ("ledger", "prompts"):
        monkeypatch.setattr(f"ltx2_mlx.pipelines.{module}.load", once)
