"""What a process computes once: never of a file that has changed, and never another number."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from ltx2_mlx.loading import checkpoint

from ..declare.inputs import FIXTURES
from ..judge import metrics
from ..sides.once import answering_once, headers_read_once


def test_a_header_is_read_once_until_its_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, read, asked = tmp_path / "a.safetensors", checkpoint.read_header, list[Path]()
    shutil.copyfile(FIXTURES / "tiny-2.0-upsampler-x2.safetensors", path)

    def reading(file: Path) -> object:
        asked.append(file)
        return read(file)

    monkeypatch.setattr(checkpoint, "read_header", reading)
    with headers_read_once():
        for part in checkpoint.read_header(path):
            part.clear()  # what one asker does to its header is not seen by the next
        assert checkpoint.read_checkpoint(path).tensors
        assert len(asked) == 1
        state = path.stat()
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
        assert checkpoint.read_checkpoint(path).tensors
        assert len(asked) == 2
    checkpoint.read_checkpoint(path)
    assert len(asked) == 3, "it lasts no longer than it is asked to"


def test_functions_do_not_answer_for_one_another(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("a")
    assert (answering_once(lambda file: 1)(path), answering_once(lambda file: 2)(path)) == (1, 2)


@pytest.mark.parametrize("size", [1_000, 1_001, 20_000, 20_001, 33_333])
def test_the_quantile_is_that_of_all_elements_in_order(size: int) -> None:
    values = np.abs(np.random.default_rng(size).standard_normal(size))
    sorted_last = np.sort(values)
    for array in (values, sorted_last, sorted_last[::-1].copy(), np.round(values), np.zeros(size), values**40):
        expected = np.sort(array)[int(np.ceil(0.999 * (size - 1)))]
        assert metrics._quantile(array, float(array.max())) == expected
    values[3] = np.nan
    expected = np.sort(values)[int(np.ceil(0.999 * (size - 1)))]
    assert metrics._quantile(values, float("nan")) == pytest.approx(expected, nan_ok=True)


def test_comparing_changes_none_of_its_arrays() -> None:
    arrays = [np.random.default_rng(seed).standard_normal(100) for seed in range(3)]
    before = [array.copy() for array in arrays]
    metrics.compare(*arrays)
    assert all(np.array_equal(now, then) for now, then in zip(arrays, before, strict=True))
