"""Terms are counted for every kind of layer; the device is measured, and its honest rounding is no fault of ours."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import mlx.core as mx
import numpy as np
import pytest
import torch

from parity.declare.inputs import seeded
from parity.declare.model import Stage
from parity.declare.stages import pipelines, stages
from parity.judge.device import UNMEASURED, Device, Measure, calibrated
from parity.judge.place import Place, find
from parity.judge.results import EXIT_DIVERGED, EXIT_INCONCLUSIVE, EXIT_OK, ORIGIN, Item, PipelineRow, Results
from parity.judge.tolerance import PARTIAL, UNIT_ROUNDOFF
from parity.judge.verdicts import judge
from parity.run import calibration, tracefile
from parity.run import pipelines as pipeline_runs
from parity.run.calibration import measure
from parity.run.live import Runner
from parity.run.loop import Live
from parity.run.recorded import Recording
from parity.run.replay import judge_recording
from parity.sides.loading import read
from parity.sides.torch.operations import Counting
from parity.tap.trace import Call, Sums, Tensor, Trace
from parity.tap.watch import Watched

U = UNIT_ROUNDOFF["float32"]

# ---- terms ---------------------------------------------------------------------------------------------------------


def conv(n: int, *arguments: int, **options: int) -> torch.nn.Module:
    made: torch.nn.Module = getattr(torch.nn, f"Conv{n}d")(*arguments, **options)
    return made


@pytest.mark.parametrize(
    ("layer", "shape", "sums"),
    [
        (torch.nn.Linear(40, 3), (2, 7, 40), {"matmul": 40}),
        (torch.nn.Linear(40, 3, bias=False), (7, 40), {"matmul": 40}),
        (conv(1, 128, 5, 7), (1, 128, 20), {"conv1d": 896}),
        (conv(1, 12, 8, 3, groups=4), (1, 12, 20), {"conv1d": 9}),
        (conv(2, 6, 5, 3), (1, 6, 9, 8), {"conv2d": 54}),
        (conv(3, 6, 5, 3), (1, 6, 4, 9, 8), {"conv3d": 162}),
        (torch.nn.ConvTranspose1d(6, 5, 16, 4), (1, 6, 9), {"conv1d_transposed": 24}),
        (torch.nn.ConvTranspose1d(6, 5, 11, 5), (1, 6, 9), {"conv1d_transposed": 18}),
        (torch.nn.GroupNorm(2, 8), (2, 8, 3, 5), {"group_norm": 60}),
        (torch.nn.LayerNorm(48), (2, 48), {"layer_norm": 48}),
        (torch.nn.Softmax(dim=-2), (2, 9, 3), {"softmax": 9}),
        (torch.nn.SiLU(), (2, 9), {"exp": 1}),
        (torch.nn.GELU("tanh"), (2, 9), {"tanh": 1}),
        (torch.nn.Upsample((7, 9), mode="bilinear"), (1, 3, 4, 5), {"sum": 4}),
        (torch.nn.Identity(), (2, 9), {}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, torch.nn.Module) else None,
)
def test_each_kind_of_layer_counts_the_terms_of_one_of_its_sums(
    layer: torch.nn.Module, shape: tuple[int, ...], sums: Sums
) -> None:
    found: Sums = {}
    with Counting(lambda primitive, terms: found.update({primitive: terms})):
        layer(torch.randn(shape))
    assert found == sums


def test_attention_counts_its_keys_or_the_width_of_a_head() -> None:
    found: list[tuple[str, int]] = []
    q, k = torch.randn(1, 2, 5, 16), torch.randn(1, 2, 33, 16)
    with Counting(lambda *operation: found.append(operation)):
        torch.nn.functional.scaled_dot_product_attention(q, k, k)
        torch.nn.functional.scaled_dot_product_attention(k, q, q)
    assert found == [("attention", 33), ("attention", 16)]


def test_a_tap_counts_its_own_code_and_an_input_the_code_before_it(checkpoints: Path) -> None:
    runner, stage = Runner(), stages()["transformer"]
    pair = runner.load(stage, "tiny-2.3", "float32")
    calls = runner.record(pair, stage.cases(pair.config)["base"], repeat=False, isolated=False).trace.calls
    block = "transformer_blocks.0"
    width = pair.reference["transformer"].inner_dim
    assert calls[f"{block}.attn1.to_q", 0].sums == {"matmul": width}
    assert calls[f"{block}.attn1", 0].sums == {"exp": 1}  # its gates: all else is made by taps inside it
    assert calls[f"{block}.attn1.to_out.0", 0].sums_before == {"exp": 1}
    assert "attention" in calls[f"{block}.attn1.attention_function", 0].sums


def test_a_trace_file_keeps_the_terms_and_is_read_without_torch() -> None:
    trace = json.loads(Path("fixtures/traces/tiny.json").read_text())
    vocoder = next(cell for cell in trace["cells"] if cell["stage"] == "vocoder")
    sums = {call["tap"]: call["sums"] for call in vocoder["cases"][0]["reference"]}
    assert sums["bwe_generator.conv_pre"] == {"conv1d": 896}


# ---- the floor -----------------------------------------------------------------------------------------------------

STAGE = Stage("toy", None, lambda config: {}, {}, ("any",))
WHERE = {"stage": "toy", "config": "any", "case": "base", "lane": "A"}
TRUTH = np.random.default_rng(0).standard_normal((40, 50))


def one(values: np.ndarray, dtype: str, sums: Sums) -> Trace:
    call = Call("layer", 0, {}, {"": Tensor(values, dtype)}, sums=sums)
    return Trace({("layer", 0): call}, [("in", "layer", 0), ("out", "layer", 0)])


def judged(error: float, sums: Sums, device: Device = UNMEASURED) -> Results:
    """The verdict on a tensor that is off by ``error`` (relative), where torch is exact."""
    noise = np.random.default_rng(1).choice([-1.0, 1.0], TRUTH.shape)
    results = Results(device=device)
    traces = (TRUTH.astype(np.float32), "float32"), (TRUTH.astype(np.float32).astype(np.float64), "float64")
    ours = (traces[1][0] * (1 + error * noise)).astype(np.float32)
    with calibrated(device):
        judge(results, WHERE, STAGE, one(*traces[0], sums), one(*traces[1], {}), one(ours, "float32", {}))
    return results


def rough(constant: float, primitive: str = "exp") -> Device:
    return Device((Measure(primitive, "float32", constant, 1), Measure("matmul", "float32", 0.4, 128)))


@pytest.mark.parametrize("dtype", ["float32"])
def test_the_floor_grows_with_the_terms_and_reductions_count_their_partial_sums(dtype: str) -> None:
    assert UNMEASURED.floor(dtype, {"matmul": 900}) == 30 * U
    assert UNMEASURED.floor(dtype, {"group_norm": 10**6}) == PARTIAL**0.5 * U
    assert UNMEASURED.floor(dtype, {}) == U and UNMEASURED.floor("bfloat16", {"matmul": 900}) == 2.0**-8


def test_a_constant_widens_the_floor_of_its_own_primitive_alone() -> None:
    device = rough(4.0)
    assert device.floor("float32", {"exp": 1}) == 4 * U
    assert device.floor("float32", {"matmul": 100}) == 10 * U == device.floor("float32", {"matmul": 100, "exp": 1})
    assert device.floor("float32", {"sin": 1}) == U
    for sums in ({"exp": 1}, {"matmul": 128}, {}):
        assert rough(0.7).floor("float32", sums) == UNMEASURED.floor("float32", sums)


def test_honest_rounding_passes_and_what_is_beyond_the_bound_is_the_devices_fault() -> None:
    assert judged(9 * U, {"exp": 1}).exit_code() == EXIT_DIVERGED
    assert judged(9 * U, {"exp": 1}, rough(4.0)).exit_code() == EXIT_OK
    assert judged(14 * U, {"exp": 1}, rough(4.0)).exit_code() == EXIT_DIVERGED
    (row,) = (found := judged(60 * U, {"exp": 1}, rough(20.0))).rows
    assert found.exit_code() == EXIT_INCONCLUSIVE and row.verdict == "inconclusive"
    assert "the device's exp is off by 20 times" in row.why
    assert judged(60 * U, {"sin": 1}, rough(20.0)).exit_code() == EXIT_DIVERGED  # not made by exp
    assert judged(U, {"sin": 1}, rough(20.0)).exit_code() == EXIT_INCONCLUSIVE  # passes, but no run is green
    assert judged(60 * U, {"exp": 1}, rough(float("nan"))).exit_code() == EXIT_INCONCLUSIVE


def test_a_pipeline_that_diverges_on_a_faulty_device_is_inconclusive() -> None:
    theirs = Watched({"video_latent.000.out": Tensor(TRUTH.astype(np.float32), "float32")})
    ours = Watched({"video_latent.000.out": Tensor((TRUTH * 1.001).astype(np.float32), "float32")})
    row = pipeline_runs.judge(PipelineRow("p", "c", "float32"), theirs, ours)
    assert row.verdict == "diverged"
    with calibrated(rough(900.0, "matmul")):
        row = pipeline_runs.judge(PipelineRow("p", "c", "float32"), theirs, ours)
    assert row.verdict == "inconclusive" and "matmul" in row.why
    assert isinstance(row.details[0], Item)


# ---- measuring -----------------------------------------------------------------------------------------------------


def off_by(function: Callable[..., mx.array], ulps: float) -> Callable[..., mx.array]:
    """The function, with errors of up to so many units in the last place (of both signs, by the value's digits)."""

    def run(*args: mx.array, **kwargs: object) -> mx.array:
        exact = function(*args, **kwargs)
        values = np.array(exact.astype(mx.float32)).astype(np.float64)
        digits = np.modf(np.abs(values) * 7919.0)[0] * 2 - 1
        return mx.array((values * (1 + 2 * ulps * U * digits)).astype(np.float32)).astype(exact.dtype)

    return run


def tf32(function: Callable[..., mx.array]) -> Callable[..., mx.array]:
    """The function of arguments that are rounded to 10 bits after the first one."""

    def cut(a: mx.array) -> mx.array:
        bits = np.array(a.astype(mx.float32)).view(np.uint32)
        return mx.array(((bits + 0x1000) & 0xFFFFE000).view(np.float32)).astype(a.dtype)

    return lambda *args, **kwargs: function(*(cut(a) for a in args), **kwargs)


def split(function: Callable[..., mx.array]) -> Callable[..., mx.array]:
    """A matrix product in four parts, summed in another order."""

    def run(*args: mx.array, **kwargs: object) -> mx.array:
        *bias, a, b = args
        parts = [a[..., i::4] @ b[..., i::4, :] for i in range(4)]
        product = (parts[3] + parts[1]) + (parts[2] + parts[0])
        return product + bias[0] if bias else product

    return run


@contextlib.contextmanager
def simulated(ulps: float, products: Callable[..., Callable[..., mx.array]] = split) -> Iterator[None]:
    """Another device: elementary functions and norms with errors of ``ulps``, products by ``products``."""
    with contextlib.ExitStack() as undo:
        for name in ("exp", "sigmoid", "tanh", "sin", "cos", "rsqrt", "log", "sqrt") if ulps else ():
            undo.enter_context(mock.patch.object(mx, name, off_by(getattr(mx, name), ulps)))
        for name in ("rms_norm", "scaled_dot_product_attention") if ulps else ():
            undo.enter_context(mock.patch.object(mx.fast, name, off_by(getattr(mx.fast, name), ulps)))
        for name in ("matmul", "addmm"):
            undo.enter_context(mock.patch.object(mx, name, products(getattr(mx, name))))
        yield


def constants(lanes: str = "A") -> dict[str, float]:
    return {m.primitive: m.constant for m in measure("cpu", lanes).measures if m.dtype == "float32"}


def test_this_device_rounds_as_the_floor_assumes_or_nearly() -> None:
    found = measure("cpu")
    assert not found.beyond and {m.dtype for m in found.measures} == {"float32", "bfloat16", "float16"}
    assert max(m.constant for m in found.measures) < 2 and found == measure("cpu")


def test_the_constants_of_rougher_devices_are_what_they_are_made_of() -> None:
    with simulated(0):
        assert constants()["matmul"] < 1  # another order is rounding
    with simulated(4):
        found = constants()
        assert all(2 < found[name] <= 8 for name in ("exp", "sin", "cos", "rsqrt", "tanh", "log")), found
    with simulated(0, tf32):
        found = constants()
        assert found["matmul"] > 100 and found["exp"] < 2


def test_half_precision_of_a_primitive_can_be_beyond_the_bound_alone() -> None:
    def winograd(*args: Any, **kwargs: Any) -> mx.array:
        exact = original(*args, **kwargs)
        return exact * (1 + 0.2 * mx.sin(exact * 1000)) if exact.dtype == mx.bfloat16 else exact

    original = mx.conv2d
    with mock.patch.object(mx, "conv2d", winograd):
        assert [(m.primitive, m.dtype) for m in measure("cpu", "B").beyond] == [("conv2d", "bfloat16")]
        assert not measure("cpu", "AC").beyond


def test_calibration_calls_nothing_of_the_product() -> None:
    source = Path(calibration.__file__).read_text()
    assert "ltx2_mlx" not in source and "mlx.nn" not in source


# ---- runs on other devices -----------------------------------------------------------------------------------------


@cache
def recorded(stage: str, config: str) -> Recording:
    """The first case, recorded once: what the reference gives does not depend on our device."""
    runner, chosen = Runner(), stages()[stage]
    first = next(iter(chosen.cases(read(runner.paths(chosen, config)[chosen.main]).config)))
    recording = runner.recording(chosen, config, "A", first)
    return replace(recording, cases=list(recording.cases))


def run_on(stage: str, config: str, device: Device) -> Results:
    """Ours as it rounds now, judged by what was measured of a device."""
    results = Results(device=device)
    with calibrated(device):
        judge_recording(recorded(stage, config), results)
    return results


@pytest.mark.parametrize("cell", [("transformer", "tiny-2.3-video-only"), ("vocoder", "tiny-2.0")])
def test_a_correct_port_is_green_on_a_rougher_device_and_inconclusive_on_a_faulty_one(
    cell: tuple[str, str], checkpoints: Path
) -> None:
    with simulated(4):
        results = run_on(*cell, measure("cpu", "A"))
        assert results.exit_code() == EXIT_OK, results.first_divergence()
        if cell[0] == "transformer":  # the vocoder's long sums hide such a device
            assert run_on(*cell, UNMEASURED).exit_code() == EXIT_DIVERGED  # without the calibration
    with simulated(20):
        results = run_on(*cell, measure("cpu", "A"))
        assert results.exit_code() == EXIT_INCONCLUSIVE, results.first_divergence()


def test_tf32_is_named_and_nothing_is_red(checkpoints: Path) -> None:
    with simulated(0, tf32):
        results = run_on("transformer", "tiny-2.3-video-only", measure("cpu", "A"))
    assert results.exit_code() == EXIT_INCONCLUSIVE
    assert {row.verdict for row in results.rows} == {"pass", "inconclusive"}
    assert "matmul" in results.failures()[0].why and "TF32" in results.failures()[0].why


# ---- seeds ---------------------------------------------------------------------------------------------------------


def test_the_seed_of_a_run_is_in_its_rows_its_commands_and_the_place_that_is_looked_up(tmp_path: Path) -> None:
    with seeded(7):
        results = judged(1e-3, {})
    results.origin = ORIGIN | {"seed": "7"}
    results.write(tmp_path / "results.json")
    assert json.loads((tmp_path / "results.json").read_text())["origin"]["seed"] == "7"
    place = find(["first"], tmp_path / "results.json")
    assert place.seed == 7 and place.commands["bisect"].endswith("layer --seed 7")
    assert find(["first"], tmp_path / "results.json", 3).seed == 3
    assert find(["toy", "any"], tmp_path / "results.json", 3) == Place("toy", "any", "base", "A", seed=3)


def test_a_cell_is_judged_with_the_inputs_of_the_runs_seed() -> None:
    usual, other = (Live("A", None, seed).judged("sampling", "any").rows for seed in (0, 5))
    assert {row.seed for row in usual} == {0} and {row.seed for row in other} == {5}
    means = [{row.metrics["mean_ref"] for row in rows if row.case == "euler"} for rows in (usual, other)]
    assert means[0] and means[1] and not means[0] & means[1]


def test_every_pipeline_takes_its_seed_from_the_run() -> None:
    for pipeline in pipelines().values():
        given = []
        for seed in (0, 4):
            with seeded(seed):
                given.append(pipeline.call(pipeline_runs.files("tiny-2.3", "float32"))["seed"])
        assert given[1] == given[0] + 4, pipeline.name


def test_a_trace_keeps_its_seed_and_is_judged_with_it(checkpoints: Path, tmp_path: Path) -> None:
    stage, manifest = stages()["sampling"], tmp_path / "trace.json"
    with seeded(5):
        tracefile.write(manifest, [Runner().recording(stage, "any", "A")], {}, False)
    trace = tracefile.open_trace(manifest)
    assert trace.seed == 5
    (now,) = [case for case in trace.recording(0).cases if case.name == "euler"]
    with seeded(5):
        assert np.array_equal(
            now.case.steps[0].kwargs["sample"].values, stage.cases({})["euler"].steps[0].kwargs["sample"].values
        )
