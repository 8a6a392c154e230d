"""The public API: ``ltx2_mlx.__all__`` is whole, documented, cheap to import, and free of side effects."""

from __future__ import annotations

import ast
import inspect
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import ltx2_mlx
from ltx2_mlx import errors, pipelines

CONSTANTS = {"DEFAULT_NEGATIVE_PROMPT"}


def classes(module: object) -> set[str]:
    return {name for name, value in vars(module).items() if inspect.isclass(value) and not name.startswith("_")}


def test_every_error_and_every_pipeline_is_exported() -> None:
    recipes = {name for name in pipelines.__all__ if "Pipeline" in name}
    assert len(recipes) > 7
    assert (classes(errors) | recipes | {"Settings", "encode_video", "load"}) <= set(ltx2_mlx.__all__)


def test_every_error_is_an_ltx2_error_in_the_drawn_tree() -> None:
    drawn = [line.split("── ")[1].split()[0] for line in (errors.__doc__ or "").splitlines() if "── " in line]
    assert {"LTX2Error", *drawn} == classes(errors)
    assert all(issubclass(getattr(errors, name), errors.LTX2Error) for name in drawn)


@pytest.mark.parametrize("name", ltx2_mlx.__all__)
def test_every_name_is_there_and_documented(name: str) -> None:
    value = getattr(ltx2_mlx, name)
    if name not in CONSTANTS:
        assert value.__module__.startswith("ltx2_mlx.")
        assert value.__doc__ and not value.__doc__.startswith(f"{name}(")  # what a dataclass writes by itself


def test_type_checkers_see_the_same_names_in_the_same_modules() -> None:
    tree = ast.parse(Path(ltx2_mlx.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {(node.module, alias.name, alias.asname) for node in block.body for alias in node.names}
    assert seen == {(module, name, name) for module, names in ltx2_mlx._EXPORTS.items() for name in names}
    assert Path(ltx2_mlx.__file__).with_name("py.typed").exists()


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = ltx2_mlx.nothing


def test_an_import_loads_no_backend_and_sets_no_environment() -> None:
    code = (
        "import os, sys; before = dict(os.environ); import ltx2_mlx; ltx2_mlx.__version__, dir(ltx2_mlx); "
        "assert dict(os.environ) == before; print(sorted({'mlx', 'numpy', 'av', 'PIL'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_message_of_every_error_is_one_line_that_steers_no_terminal() -> None:
    """Names of files, keys and values get into messages, and may hold anything."""
    error = ltx2_mlx.LTX2Error("a\nb \x1b[31m \u202e \ud800 é×")
    assert str(error) == r"a\nb \x1b[31m \u202e \ud800 é×"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
