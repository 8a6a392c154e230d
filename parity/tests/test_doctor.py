"""The doctor is green on a sound device, and each of its lines red on one with the fault that it looks for."""

from __future__ import annotations

import json
from pathlib import Path
from unittest import mock

import mlx.core as mx
import numpy as np
import pytest

import parity
from parity.cli import main
from parity.doctor import blas, large
from parity.doctor import examine as examination
from parity.doctor.examine import LINES, Examination, Finding, ask, chosen, examine
from parity.doctor.line import Check, Setting
from parity.doctor.page import as_json, line_of, page, said
from parity.judge import sampled
from parity.judge.device import Device
from parity.judge.results import (
    EXIT_DIVERGED,
    EXIT_INCOMPLETE,
    EXIT_INCONCLUSIVE,
    EXIT_OK,
    EXIT_USAGE,
    Results,
)
from parity.run.largest import largest_layers
from parity.tests.hazards import HAZARDS, hazard, winograd, winograd_in_slices

SMALL = Setting("cpu", small=True)
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def on_the_cpu() -> None:
    """Each test makes its own table."""
    large._table.cache_clear()
    if mx.default_device().type != mx.cpu:
        pytest.skip("the faults are planted in the CPU's primitives")


# ---- every line ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.name)
def test_a_line_is_green_on_a_sound_device(line: examination.Line) -> None:
    finding = ask(line, SMALL)
    assert finding.verdict == "pass", finding.worst


@pytest.mark.parametrize(("name", "which"), [(name, which) for name in HAZARDS for which in HAZARDS[name]])
def test_a_line_is_red_where_its_hazard_is(name: str, which: str) -> None:
    (line,) = chosen(name)
    with hazard(HAZARDS[name][which]):
        finding = ask(line, SMALL)
    assert finding.verdict == "diverged" and finding.worst is not None and not finding.worst.sound


def test_every_line_has_a_hazard_that_turns_it_red() -> None:
    assert set(HAZARDS) == {line.name for line in LINES}


def test_every_known_issue_of_mlx_has_a_line() -> None:
    known = {3785, 4242, 4548, 4539, 3138, 3979, 4411, 3534, 3797, 3585, 3444, 3860}
    assert known <= {number for line in LINES for number in line.sources}


@pytest.mark.parametrize("dims", ["2d", "3d"])
def test_on_metal_the_products_layers_go_around_winograd(dims: str) -> None:
    (own,) = chosen(f"ltx2_mlx.conv{dims}")
    (primitive,) = chosen(f"conv{dims}.winograd")
    with hazard(HAZARDS[primitive.name][next(iter(HAZARDS[primitive.name]))], metal=True):
        assert ask(primitive, SMALL).verdict == "diverged"
        assert ask(own, SMALL).verdict == "pass"


# ---- Winograd --------------------------------------------------------------------------------------------------------


def half(values: np.ndarray) -> np.ndarray:
    return sampled.rounded(values, "bfloat16")


def test_winograds_algorithm_is_right_and_in_bfloat16_35_to_43_times_worse_than_a_plain_convolution() -> None:
    x, weight = half(RNG.normal(size=(1, 24, 30, 128))), half(RNG.normal(size=(64, 3, 3, 128)) / 34)
    at = sampled.positions((1, 24, 30), 720)
    exact = sampled.convolution(at, x, weight, padding=(1, 1))
    np.testing.assert_allclose(winograd(x, weight, "float64")[tuple(at.T)], exact, rtol=0, atol=1e-12)
    off = sampled.ratio(winograd(x, weight, "bfloat16")[tuple(at.T)], exact, "bfloat16", 1152)
    assert 20 < off < 60
    assert sampled.ratio(half(exact), exact, "bfloat16", 1152) == 1.0


def test_in_slices_it_is_as_far_off() -> None:
    x, weight = half(RNG.normal(size=(1, 5, 14, 13, 64))), half(RNG.normal(size=(32, 3, 3, 3, 64)) / 42)
    at = sampled.positions((1, 3, 14, 13), 500)
    exact = sampled.convolution(at, x, weight, padding=(0, 1, 1))
    np.testing.assert_allclose(winograd_in_slices(x, weight, "float64")[tuple(at.T)], exact, rtol=0, atol=1e-12)
    assert 20 < sampled.ratio(winograd_in_slices(x, weight, "bfloat16")[tuple(at.T)], exact, "bfloat16", 1728) < 60


# ---- sampled positions -----------------------------------------------------------------------------------------------


def test_positions_have_every_corner_and_stay_inside() -> None:
    at = sampled.positions((2, 5, 7), 50)
    assert at.shape == (50, 3) and (at >= 0).all() and (at < (2, 5, 7)).all()
    assert {(n, h, w) for n in (0, 1) for h in (0, 4) for w in (0, 6)} <= {tuple(map(int, p)) for p in at}


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize(("stride", "pad", "dilation"), [(1, 0, 1), (1, 1, 1), (2, 1, 1), (1, 2, 2)])
def test_the_exact_convolution_is_mlxs(n: int, stride: int, pad: int, dilation: int) -> None:
    x, weight = RNG.normal(size=(2, *(7, 6, 5)[:n], 3)), RNG.normal(size=(4, *(3,) * n, 3))
    bias = RNG.normal(size=4)
    plain = getattr(mx, f"conv{n}d")(mx.array(x), mx.array(weight), stride, pad, dilation) + mx.array(bias)
    at = sampled.positions(plain.shape[:-1], 40)
    exact = sampled.convolution(at, x, weight, bias, stride, (pad,) * n, dilation)
    np.testing.assert_allclose(np.array(plain)[tuple(at.T)], exact, atol=1e-4)


@pytest.mark.parametrize(("kernel", "stride", "pad"), [(4, 2, 1), (11, 5, 3), (3, 1, 0)])
def test_the_exact_transposed_convolution_is_mlxs(kernel: int, stride: int, pad: int) -> None:
    x, weight = RNG.normal(size=(2, 9, 3)), RNG.normal(size=(4, kernel, 3))
    plain = mx.conv_transpose1d(mx.array(x), mx.array(weight), stride=stride, padding=pad)
    at = sampled.positions(plain.shape[:-1], 40)
    np.testing.assert_allclose(np.array(plain)[tuple(at.T)], sampled.transposed(at, x, weight, stride, pad), atol=1e-4)


def test_the_exact_attention_and_linear_layer_are_mlxs() -> None:
    q, k, v = (RNG.normal(size=(2, 3, t, 8)) for t in (5, 11, 11))
    mask = np.where(RNG.random((2, 1, 5, 11)) < 0.3, -1e4, 0.0)
    operands = [mx.array(a) for a in (q, k, v)]
    plain = mx.fast.scaled_dot_product_attention(*operands, scale=0.3, mask=mx.array(mask))
    at = sampled.positions(plain.shape[:-1], 30)
    exact = sampled.attention(at, q, k, v, scale=0.3, mask=mask)
    np.testing.assert_allclose(np.array(plain)[tuple(at.T)], exact, atol=1e-5)
    x, weight, bias = RNG.normal(size=(2, 5, 8)), RNG.normal(size=(4, 8)), RNG.normal(size=4)
    at = sampled.positions((2, 5), 12)
    np.testing.assert_allclose(sampled.linear(at, x, weight, bias), (x @ weight.T + bias)[tuple(at.T)], atol=1e-12)


def test_half_precision_is_rounded_as_mlx_rounds_it() -> None:
    values = RNG.normal(size=10_000) * 10.0 ** RNG.integers(-4, 4, 10_000)
    for dtype in (mx.bfloat16, mx.float16):
        name = str(dtype).removeprefix("mlx.core.")
        plain = np.array(mx.array(values.astype(np.float32)).astype(dtype).astype(mx.float32))
        assert np.array_equal(sampled.rounded(values.astype(np.float32), name), plain)


@pytest.mark.parametrize("spoilt", [np.nan, np.inf])
def test_what_is_no_number_is_infinitely_far_off(spoilt: float) -> None:
    exact = RNG.normal(size=(4, 5))
    ours = exact.copy()
    ours[2, 3] = spoilt
    assert sampled.ratio(ours, exact, "float32", 9) == np.inf == sampled.ratio(exact[:3], exact, "float32", 9)
    assert not Check("", float("nan"), 8.0).sound


# ---- the largest layers of a real file -------------------------------------------------------------------------------


def test_the_largest_layers_of_a_file_are_judged_with_its_weights(checkpoints: Path) -> None:
    file, names = checkpoints / "tiny-2.3.safetensors", ("transformer", "video_decoder", "audio_decoder", "vocoder")
    found = largest_layers(dict.fromkeys(names, file), "AB", tokens=90)
    assert {(m.primitive.split()[0], m.dtype) for m in found} == {
        (n, d) for n in names for d in ("float32", "bfloat16")
    }
    assert all(measure.honest and measure.constant > 0.05 for measure in found), found
    for patches, worst in (
        (HAZARDS["conv3d.winograd"]["Winograd in slices"], ("video_decoder", "bfloat16")),
        (HAZARDS["conv2d.winograd"]["Winograd"], ("audio_decoder", "bfloat16")),
        (HAZARDS["matmul.float32"]["TF32"], ("transformer", "float32")),
    ):
        with hazard(patches):
            beyond = [m for m in largest_layers({worst[0]: file}, "AB", tokens=90) if not m.honest]
        assert {(m.primitive.split()[0], m.dtype) for m in beyond} == {worst}
        assert Results(device=Device(tuple(beyond))).exit_code() in (EXIT_INCOMPLETE, EXIT_INCONCLUSIVE)


def test_they_are_judged_by_a_run_of_a_checkpoint_on_a_gpu_alone(checkpoints: Path, tmp_path: Path) -> None:
    words = ["run", "--checkpoint", str(checkpoints / "tiny-2.3-upsampler-x2.safetensors"), "--lane", "A", "--json"]
    for device, expected in (("gpu", ["upsampler upsampler.0.weight", "upsampler final_conv.weight"]), ("cpu", [])):
        path = tmp_path / device / "results.json"
        with (
            mock.patch("parity.run.environment.chosen_device", return_value=device),
            mock.patch("parity.run.loop.run", return_value=Results()),
        ):
            main([*words, str(path)])
        measures = json.loads(path.read_text())["calibration"]["measures"]
        assert [measure["primitive"] for measure in measures] == expected


# ---- processes, budgets, exit codes ----------------------------------------------------------------------------------


def examined(pattern: str, speed: float = 50.0, free: float = 9.0, setting: Setting = SMALL) -> tuple[Finding, ...]:
    return examine(chosen(pattern), setting, speed, free, lambda finding: None)


def test_a_line_that_is_too_large_or_too_slow_is_not_run_and_says_why() -> None:
    real = Setting("cpu")
    (table,) = examined("large.max", free=3.2, setting=real)
    assert table.verdict == "not run" and "3.5 GB" in table.why and "3.2 GB are free" in table.why
    (slow,) = examined("conv3d.winograd", speed=1.0, setting=real)
    assert slow.verdict == "not run" and "90 billion operations" in slow.why
    for finding in (table, slow):
        assert Examination((finding,), {}).exit_code == EXIT_INCOMPLETE
        assert finding.why in line_of(Examination((finding,), {}), finding)
    (elsewhere,) = examined("conv3d.unfolded", setting=real)
    assert elsewhere.verdict == "not run" and elsewhere.excused
    assert Examination((elsewhere,), {}).exit_code == EXIT_OK


def test_a_line_that_takes_too_long_is_stopped() -> None:
    with mock.patch.object(examination, "PATIENCE", 0.2):
        (finding,) = examined("softmax")
    assert finding.verdict == "not run" and "too slow" in finding.why


def test_a_process_that_ends_early_is_a_finding_of_its_line_and_the_next_are_asked_again() -> None:
    with mock.patch.object(examination.sys, "executable", "/bin/false"):
        found = examined("large.ma*")
    assert [finding.name for finding in found] == ["large.made", "large.max"]
    for finding in found:
        assert finding.verdict == "diverged" and finding.worst is not None and "ended with 1" in finding.worst.what


def test_float32_is_asked_as_the_shell_has_it() -> None:
    """The variable is handed to the process; the harness's own 0 is not."""
    for value in (None, "1", "0"):
        with (
            mock.patch.object(parity, "TF32_ASKED", value),
            mock.patch.object(examination.subprocess, "run", side_effect=OSError) as run,
            pytest.raises(OSError),
        ):
            examined("matmul.float32")
        assert run.call_args.kwargs["env"].get("MLX_ENABLE_TF32") == value


def test_findings_survive_the_way_through_json() -> None:
    finding = Finding("exp", "diverged", (Check("a", float("inf"), 8.0, "b"), Check("c", 0.3, 8.0)), 1.5, 0.2)
    assert examination.read_finding(json.loads(json.dumps(examination.document_of(finding)))) == finding


def test_the_verb_writes_its_findings_and_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "found.json"
    assert main(["doctor", "--device", "cpu", "--only", "sof*", "--json", str(path)]) == EXIT_OK
    found = json.loads(path.read_text())
    assert found["exit_code"] == 0 and [line["name"] for line in found["lines"]] == ["softmax"]
    assert "The device is sound" in path.with_suffix(".html").read_text()
    assert "✓ softmax" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--only", "nothing"], ["--json", "x.html"], ["--json", "/proc/nowhere/x.json"]])
def test_a_flag_that_cannot_be_obeyed_ends_it_before_anything_runs(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with mock.patch.object(examination.subprocess, "run", side_effect=AssertionError):
        assert main(["doctor", *words]) == EXIT_USAGE


def test_a_red_line_says_what_is_known_and_what_to_do() -> None:
    (line,) = chosen("conv2d.winograd")
    with hazard(HAZARDS[line.name]["Winograd"]):
        finding = ask(line, SMALL)
    found = Examination((finding,), {"machine": "here"})
    sentence = said(found, finding)
    assert line.reason in sentence and line.remedy in sentence and "mlx #4242" in sentence
    assert found.exit_code == EXIT_DIVERGED and json.loads(as_json(found))["exit_code"] == 1
    assert "The device is not sound" in page(found) and "#4242" in page(found)


def test_the_slow_blas_is_noted_with_its_remedy() -> None:
    assert "LD_PRELOAD" in blas.notes(2.0)[0] and "LD_PRELOAD" not in blas.notes(60.0)[0]
    assert blas.gigaflops_a_second() > 0
