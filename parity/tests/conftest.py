"""What tests of the harness share: the reference's components and runs, made once for all tests of a file."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="module")
def reference_loaded_once(checkpoints: object) -> Iterator[None]:
    """The reference's components of the tiny checkpoints, and their oracles, are loaded once: for tests that change
    nothing in them."""
    from parity.sides.loading import files_of
    from parity.sides.once import state_of
    from parity.sides.torch import Torch

    load, oracle = Torch.load, Torch.oracle
    loaded: dict[Any, Any] = {}
    oracles: dict[int, tuple[Any, Any]] = {}  # by the id of the module, which is kept so that nothing else gets it

    def load_once(self: Any, component: str, path: Any, config: Any, dtype: str, *options: Any, **named: Any) -> Any:
        files = tuple((file, *state_of(file)) for file in files_of(path))
        key = type(self), component, files, dtype, options, tuple(named.items())
        if key not in loaded:
            loaded[key] = load(self, component, path, config, dtype, *options, **named)
        return loaded[key]

    def oracle_once(self: Any, module: Any) -> Any:
        if id(module) not in oracles:
            oracles[id(module)] = module, oracle(self, module)
        return oracles[id(module)][1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Torch, "load", load_once)
        patch.setattr(Torch, "oracle", oracle_once)
        yield


@pytest.fixture(scope="module")
def reference_runs_once() -> Iterator[None]:
    """For tests whose faults are all in ours: what the reference gives of the same modules and inputs is kept."""
    from parity.tap import execute

    usual = execute.execute
    known: dict[Any, tuple[Any, ...]] = {}

    def run(side: Any, stage: Any, modules: dict[str, Any], case: Any, lane: str, model: str, session: Any) -> Any:
        if side.key != "reference" or session is None or case.steps:
            return usual(side, stage, modules, case, lane, model, session)
        given = *modules.values(), session.source
        asked = session.probes, session.oracle, session.only, session.keeps, session.matching
        functions = tuple(tap.name for tap in stage.functions)
        key = (stage.name, functions, lane, model, *map(id, given), asked, pickle.dumps(case))
        if key not in known:
            result = usual(side, stage, modules, case, lane, model, session)
            known[key] = session.trace, result, given  # what was given too, so that nothing else gets its id
        session.trace, result, _ = known[key]
        return result

    with pytest.MonkeyPatch.context() as patch:
        for user in ("tap.execute", "run.live", "run.replay", "run.ports", "debug.subject"):
            patch.setattr(f"parity.{user}.execute", run)
        yield
