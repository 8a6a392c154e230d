"""The product on its own: what a caller meets. That it computes the right numbers is parity's work."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest

import ltx2_mlx
from ltx2_mlx import BatchedPerturbationConfig, LTXModel, Modality, X0Model, block, transformer
from ltx2_mlx.nn import modulation, norm, rope
from ltx2_mlx.nn.attention import Attention
from ltx2_mlx.nn.linear import Linear
from ltx2_mlx.nn.modulation import Row


def modality(model: LTXModel, audio: bool = False, dtype: mx.Dtype = mx.float32, batch: int = 2) -> Modality:
    config, axes = model.config, 1 if audio else 3
    channels = config.audio_in_channels if audio else config.in_channels
    text = config.caption_channels
    if config.caption_proj_before_connector:
        text = config.audio_inner_dim if audio else config.inner_dim
    key = mx.random.key(3 + audio)
    tokens = 7 if audio else 12
    start = mx.random.uniform(shape=(batch, axes, tokens, 1), key=key) * 4
    return Modality(
        latent=mx.random.normal((batch, tokens, channels), key=key).astype(dtype),
        sigma=mx.array([0.725, 0.909375][:batch]),
        timesteps=mx.random.uniform(shape=(batch, tokens, 1), key=key),
        positions=mx.concatenate([start, start + 0.25], axis=-1),
        context=mx.random.normal((batch, 5, text), key=key).astype(dtype),
    )


@pytest.fixture(params=["tiny-2.0", "tiny-2.3"])
def model(request: pytest.FixtureRequest, checkpoints: Path) -> LTXModel:
    return _loaded(checkpoints / f"{request.param}.safetensors")


@cache
def _loaded(path: Path) -> LTXModel:
    """No test here changes it."""
    return ltx2_mlx.load("transformer", path, mx.float32)


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_half_precision_stays_half(dtype: mx.Dtype, model: LTXModel, checkpoints: Path) -> None:
    half = ltx2_mlx.load("transformer", model.load_report.path, dtype)
    video, audio = X0Model(half)(modality(half, dtype=dtype), modality(half, audio=True, dtype=dtype))
    assert (video.dtype, audio.dtype) == (dtype, dtype)
    assert mx.isfinite(video).all() and mx.isfinite(audio).all()


def test_a_batch_is_its_samples(model: LTXModel) -> None:
    video, audio = modality(model), modality(model, audio=True)

    def only(m: Modality, i: int) -> Modality:
        arrays = {k: v[i : i + 1] for k, v in vars(m).items() if isinstance(v, mx.array)}
        return replace(m, **arrays)

    together = model(video, audio)
    for i in range(2):
        for whole, alone in zip(together, model(only(video, i), only(audio, i)), strict=True):
            assert mx.allclose(whole[i : i + 1], alone, rtol=1e-4, atol=1e-5)


def test_one_timestep_for_all_tokens_is_that_timestep_for_each(model: LTXModel) -> None:
    video = modality(model)
    shared = mx.array([[[0.5]], [[0.25]]])
    each = replace(video, timesteps=mx.broadcast_to(shared, video.timesteps.shape))
    assert mx.allclose(model(replace(video, timesteps=shared), None)[0], model(each, None)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_a_linear_layer_of_half_precision_rounds_once(
    dtype: mx.Dtype, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ltx2_mlx.nn.linear.PIECE", 640 * 5)  # of the weight: four pieces of five rows, and one of four
    monkeypatch.setattr("ltx2_mlx.nn.linear.ROWS", 4)  # of x: two of four, and one of one
    generator, layer = np.random.default_rng(0), Linear(640, 24, bias)
    layer.update({name: mx.array(generator.standard_normal(own.shape)) for name, own in layer.parameters().items()})
    layer.set_dtype(dtype)
    x = mx.array(generator.standard_normal((9, 640))).astype(dtype)
    exact = [np.array(each.astype(mx.float32), np.float64) for each in (x, *layer.parameters().values())]
    known = dict(zip(("x", *layer.parameters()), exact, strict=True))
    expected = mx.array((known["x"] @ known["weight"].T + known.get("bias", 0)).astype(np.float32)).astype(dtype)
    assert layer(x).dtype == dtype
    assert (layer(x) != expected).mean().item() < 0.02  # a sum in float32 may fall on the other side


def test_an_absent_stream_gives_nothing(model: LTXModel) -> None:
    video, audio = modality(model), modality(model, audio=True)
    assert model(video, None)[1] is None
    assert model(None, audio)[0] is None
    assert X0Model(model)(None, audio)[0] is None


def test_arguments_that_do_not_fit_are_named(model: LTXModel, checkpoints: Path) -> None:
    video, audio = modality(model), modality(model, audio=True)
    with pytest.raises(ltx2_mlx.InputError, match="video positions are"):
        model(replace(video, positions=video.positions[:, :2]), audio)
    with pytest.raises(ltx2_mlx.InputError, match="audio timesteps are"):
        model(video, replace(audio, timesteps=audio.timesteps[:, :3]))
    with pytest.raises(ltx2_mlx.InputError, match="sigma of the stream beside video"):
        model(video, replace(audio, sigma=mx.array(0.5)))
    with pytest.raises(ltx2_mlx.InputError, match="needs video, audio, or both"):
        model(None, None)
    alone = ltx2_mlx.load("transformer", checkpoints / "tiny-2.3-video-only.safetensors")
    with pytest.raises(ltx2_mlx.InputError, match="no audio stream"):
        alone(None, audio)


def test_no_perturbation_is_an_empty_one(model: LTXModel) -> None:
    video, audio = modality(model), modality(model, audio=True)
    for a, b in zip(model(video, audio), model(video, audio, BatchedPerturbationConfig.empty(2)), strict=True):
        assert mx.array_equal(a, b)


def test_rope_tables_are_made_once_for_the_same_positions_and_anew_for_others(model: LTXModel) -> None:
    from ltx2_mlx.transformer import _rope_tables

    _rope_tables.cache_clear()
    video, audio = modality(model), modality(model, audio=True)
    first = model(video, audio)
    assert _rope_tables.cache_info().misses == 3  # video alone, video with audio, audio (with itself as with video)
    assert mx.array_equal(model(video, audio)[0], first[0])
    assert _rope_tables.cache_info().misses == 3
    moved = model(replace(video, positions=video.positions + 1), audio)
    assert _rope_tables.cache_info().misses == 5
    assert not mx.allclose(moved[0], first[0])


def test_a_lora_changes_the_velocity_by_its_strength(model: LTXModel) -> None:
    path = model.load_report.path
    video, audio = modality(model), modality(model, audio=True)
    lora = path.with_name(f"{path.stem}-lora.safetensors")
    fused = (
        ltx2_mlx.load("transformer", path, mx.float32, [ltx2_mlx.LoraPathStrength(lora, by)])(video, audio)
        for by in (0.1, 0.2)
    )
    for plain, *changed in zip(model(video, audio), *fused, strict=True):
        small, large = (mx.linalg.norm(x - plain).item() / mx.linalg.norm(plain).item() for x in changed)
        assert 0.01 < small < 0.8 * large


@pytest.mark.parametrize(("most", "order"), [(0, "s ws ws"), (1.5, "s ws ws"), (2.5, "s s ws"), (9, "s s s")])
def test_a_gpu_starts_each_block_early_and_waits_where_too_much_is_in_flight(
    most: float, order: str, model: LTXModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``most`` blocks fit into the memory; s: a block is started, w: the oldest is waited for."""
    video, audio = modality(model), modality(model, audio=True)
    plain = model(video, audio)
    size = sum(
        4 * x.shape[0] * x.shape[1] * w
        for x, w in ((video.latent, model.config.inner_dim), (audio.latent, model.config.audio_inner_dim))
    )
    monkeypatch.setattr(transformer, "fused", SimpleNamespace(pays=lambda: True))
    monkeypatch.setattr(transformer, "IN_FLIGHT", int(most * transformer.COPIES * size))
    calls: list[tuple[str, tuple[mx.array, ...]]] = []
    start, wait = mx.async_eval, mx.eval
    monkeypatch.setattr(mx, "async_eval", lambda *xs: (calls.append(("s", xs)), start(*xs)))
    monkeypatch.setattr(mx, "eval", lambda *xs: (calls.append(("w", xs)), wait(*xs)))
    early = model(video, audio)
    monkeypatch.undo()
    assert "".join(kind for kind, _ in calls) == order.replace(" ", "")
    started, waited = ([xs for kind, xs in calls if kind == k] for k in "sw")
    assert all(a is b for xs, ys in zip(waited, started, strict=False) for a, b in zip(xs, ys, strict=True))
    assert all(len(xs) == 2 for xs in started)
    assert all(mx.array_equal(a, b) for a, b in zip(plain, early, strict=True))


def test_a_cpu_computes_nothing_before_the_result_is_used(model: LTXModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformer, "fused", SimpleNamespace(pays=lambda: False))
    monkeypatch.setattr(mx, "async_eval", lambda *xs: pytest.fail("a block was started"))
    model(modality(model), modality(model, audio=True))


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
@pytest.mark.parametrize(("batch", "tokens", "width", "steps"), [(2, 5, 96, 5), (1, 7, 512, 1), (2, 3, 7, 1)])
def test_rows_that_are_added_on_the_way_modulate_as_their_sums_do(
    batch: int, tokens: int, width: int, steps: int, dtype: mx.Dtype
) -> None:
    """On an NVIDIA GPU this is the kernels' result."""
    x, y = (mx.random.normal((batch, tokens, width)).astype(dtype) for _ in range(2))
    table, timestep = (
        mx.random.normal((3, width)).astype(dtype),
        mx.random.normal((batch, steps, 2 * width)).astype(dtype),
    )
    scale, shift, gate = Row(table, 1, timestep, 0), Row(table, 0, timestep, 1), Row(table, 2, timestep, 1)
    exact = [
        np.array(a.astype(mx.float32), np.float64) for a in (x, y, table, timestep.reshape(batch, steps, 2, width))
    ]
    ex, ey, rows, of = exact
    normed = ex / np.sqrt((ex**2).mean(-1, keepdims=True) + 1e-6)
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype == mx.float32 else {"rtol": 3e-2, "atol": 3e-2}
    found = block.modulated_norm(x, scale, shift, 1e-6).astype(mx.float32)
    np.testing.assert_allclose(np.array(found), normed * (1 + rows[1] + of[:, :, 0]) + rows[0] + of[:, :, 1], **close)
    found = block.add_gated(x, y, gate).astype(mx.float32)
    np.testing.assert_allclose(np.array(found), ex + ey * (rows[2] + of[:, :, 1]), **close)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
@pytest.mark.parametrize(
    ("batch", "tables", "heads", "tokens", "half"), [(2, 2, 3, 5, 8), (2, 1, 5, 7, 7), (1, 1, 4, 300, 4)]
)
def test_each_pair_of_a_head_is_turned_by_its_angle(
    dtype: mx.Dtype, batch: int, tables: int, heads: int, tokens: int, half: int
) -> None:
    """On every device: the kernel of an NVIDIA GPU is what is tested there."""
    x = mx.random.normal((batch, tokens, heads * 2 * half), key=mx.random.key(1)).astype(dtype)
    cos, sin = (mx.random.normal((tables, heads, tokens, half), key=mx.random.key(k)).astype(dtype) for k in (2, 3))
    turned = rope.apply_rotary_emb(x, (cos, sin), rope.LTXRopeType.SPLIT)
    a, b = np.moveaxis(np.array(x.astype(mx.float32)).reshape(batch, tokens, heads, 2, half), 3, 0)
    c, s = (np.array(t.astype(mx.float32)).swapaxes(1, 2) for t in (cos, sin))
    expected = np.stack([a * c - b * s, b * c + a * s], axis=3).reshape(x.shape)
    assert turned.dtype == dtype
    error = np.linalg.norm(np.array(turned.astype(mx.float32)) - expected) / np.linalg.norm(expected)
    assert error < (1e-6 if dtype == mx.float32 else 4e-3)


@pytest.mark.parametrize(("half", "dtype", "run"), [(64, mx.bfloat16, 8), (64, mx.float32, 4), (7, mx.bfloat16, 1)])
def test_the_rotary_kernel_is_given_a_thread_for_each_run_of_pairs(
    half: int, dtype: mx.Dtype, run: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, object] = {}

    def kernel(**arguments: object) -> list[mx.array]:
        asked.update(arguments)
        return [mx.zeros((2, 5, 3 * 2 * half), dtype)]

    monkeypatch.setattr(rope, "_split_kernel", lambda: kernel)
    x, table = mx.zeros((2, 5, 3 * 2 * half), dtype), mx.zeros((2, 3, 5, half))
    assert rope._split_on_cuda(x, table, table).shape == x.shape
    assert asked["grid"] == (5 * 3 * half // run, 2, 1)
    assert asked["template"] == [("T", dtype), ("RUN", run)]
    assert [a.dtype for a in asked["inputs"]] == [dtype] * 3  # type: ignore[attr-defined]
    assert (asked["output_shapes"], asked["output_dtypes"]) == ([x.shape], [dtype])


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
@pytest.mark.parametrize(("heads", "half"), [(3, 8), (5, 7)])
def test_queries_are_normed_over_all_heads_and_then_turned(heads: int, half: int, dtype: mx.Dtype) -> None:
    """On an NVIDIA GPU this is one kernel's result."""
    inner = 2 * half * heads
    attention = Attention(inner, None, heads, 2 * half, 1e-6, rope.LTXRopeType.SPLIT, False)
    attention.q_norm.weight = mx.random.normal((inner,)).astype(dtype)
    x, angles = mx.random.normal((2, 6, inner)).astype(dtype), mx.random.uniform(0, 6, (1, heads, 6, half))
    tables = mx.cos(angles).astype(dtype), mx.sin(angles).astype(dtype)
    found = attention._turned(attention.q_norm, x, tables)
    exact, weight = (np.array(a.astype(mx.float32), np.float64) for a in (x, attention.q_norm.weight))
    normed = (exact / np.sqrt((exact**2).mean(-1, keepdims=True) + 1e-6) * weight).reshape(2, 6, heads, 2, half)
    a, b = normed[..., 0, :], normed[..., 1, :]
    c, s = (np.array(t.astype(mx.float32)).swapaxes(1, 2) for t in tables)
    expected = np.stack([a * c - b * s, b * c + a * s], axis=3).reshape(x.shape)
    assert found.dtype == dtype
    error = np.linalg.norm(np.array(found.astype(mx.float32)) - expected) / np.linalg.norm(expected)
    assert error < (1e-6 if dtype == mx.float32 else 1e-2)


@pytest.mark.parametrize(("width", "dtype", "run"), [(96, mx.bfloat16, 8), (96, mx.float32, 4), (7, mx.bfloat16, 1)])
def test_the_kernels_of_modulation_are_given_the_places_of_their_rows(
    width: int, dtype: mx.Dtype, run: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, object] = {}

    def kernel(**arguments: object) -> list[mx.array]:
        asked.update(arguments)
        return [mx.zeros((2, 5, width), dtype)]

    monkeypatch.setattr(modulation, "_norm_kernel", lambda eps: kernel)
    monkeypatch.setattr(modulation, "_gate_kernel", lambda: kernel)
    x, table, timestep = mx.zeros((2, 5, width), dtype), mx.zeros((9, width)), mx.zeros((2, 1, 4 * width))
    rows = Row(table, 7, timestep, 1), Row(table, 6, timestep, 3)
    modulation.normed_on_cuda(x, *rows, 1e-6)
    assert asked["grid"] == (2 * 5 * 256, 1, 1)  # a group of 256 threads a token
    inputs: list[mx.array] = asked["inputs"]  # type: ignore[assignment]
    assert [a.dtype for a in inputs] == [dtype] * 3 + [mx.int32]
    assert inputs[3].tolist() == [7, 1, 6, 3]
    modulation._add_gated_on_cuda(x, x, rows[0])
    assert (asked["grid"], asked["template"]) == ((5 * width // run, 2, 1), [("T", dtype), ("RUN", run)])
    inputs = asked["inputs"]  # type: ignore[assignment]
    assert inputs[4].tolist() == [7, 1]


@pytest.mark.parametrize(("dtype", "sizes"), [(mx.bfloat16, (257, 512)), (mx.float32, (129, 256))])
def test_norms_that_mlx_has_wrong_on_cuda_are_taken_in_plain_operations(
    monkeypatch: pytest.MonkeyPatch, dtype: mx.Dtype, sizes: tuple[int, int]
) -> None:
    for size in sizes:
        x = mx.random.normal((5, size), key=mx.random.key(size)).astype(dtype)
        weight = mx.random.normal((size,)).astype(dtype)
        expected = [norm.rms_norm(x, eps=0.1), norm.rms_norm(x, weight, eps=0.1)]
        with monkeypatch.context() as cuda:
            cuda.setattr(norm, "on_cuda", lambda: True)
            assert norm.wrong_on_cuda(x)
            cuda.setattr(mx.fast, "rms_norm", None)
            found = [norm.rms_norm(x, eps=0.1), norm.rms_norm(x, weight, eps=0.1)]
            assert not any(norm.wrong_on_cuda(mx.zeros((2, n), dtype)) for n in (sizes[0] - 1, sizes[1] + 1))
        for ours, fast in zip(found, expected, strict=True):
            assert ours.dtype == dtype and mx.allclose(ours, fast, rtol=mx.finfo(dtype).eps, atol=1e-6)
