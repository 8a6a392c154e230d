"""The comparison at the released sizes (``benchmarks/depth.py``), at a small one."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

import ltx2_mlx.block

pytestmark = pytest.mark.reference
SCRIPT = Path(__file__).parents[1] / "benchmarks" / "depth.py"


def measured(part: str, out: Path, *options: str) -> list[dict[str, Any]]:
    words = [str(SCRIPT), part, "--size", "tiny", "--blocks", "2", "--out", str(out), *options]
    with mock.patch.object(sys, "argv", words):
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return json.loads(out.read_text())["rows"]


@pytest.mark.parametrize("version", ["2.0", "2.3"])
def test_every_block_is_compared_isolated_and_free_and_told_apart_from_rounding(version: str, tmp_path: Path) -> None:
    rows = measured("transformer", tmp_path / "a.json", "--version", version)
    assert [row["block"] for row in rows[::2] if row["dtype"] == "float32"] == [0, 1, "velocity"]
    for row in rows:
        single, blocks = row["dtype"] == "float32", row["block"] != "velocity"
        for measure in (row["isolated"], row["free"]) if blocks else (row["free"],):
            assert abs(measure["one_minus_r"]) < (1e-10 if single else 1e-3), row
            assert measure["rel_l2"] < (1e-5 if single else 5e-2), row
        if blocks:
            assert row["isolated"]["ours_from_exact"] < 3 * row["isolated"]["torch_from_exact"], row

    def gate_larger(x: Any, y: Any, gate: Any) -> Any:
        return x + y * gate * 1.001

    with mock.patch.object(ltx2_mlx.block, "add_gated", gate_larger):
        rows = measured("transformer", tmp_path / "b.json", "--version", version, "--dtypes", "float32")
    assert all(row["isolated"]["ours_from_exact"] > 100 * row["isolated"]["torch_from_exact"] for row in rows[:4])


@pytest.mark.parametrize("part", ["gemma", "video_decoder", "upsampler"])
def test_the_parts_around_the_transformer_are_compared(part: str, tmp_path: Path) -> None:
    rows = measured(part, tmp_path / "a.json")
    assert {row["dtype"] for row in rows} == {"float32", "bfloat16"}
    for row in rows:
        assert row["free"]["rel_l2"] < (1e-5 if row["dtype"] == "float32" else 5e-2), row


def test_the_table_and_the_picture_are_written(tmp_path: Path) -> None:
    measured("transformer", tmp_path / "a.json")
    with mock.patch.object(sys, "argv", [str(SCRIPT), "table", str(tmp_path / "a.json"), "--out", str(tmp_path)]):
        runpy.run_path(str(SCRIPT), run_name="__main__")
    text = (tmp_path / "depth.md").read_text()
    assert "## LTX-2 19B, bfloat16, 24 video tokens" in text and "| velocity | audio |" in text
    assert (tmp_path / "depth.png").stat().st_size > 10_000
