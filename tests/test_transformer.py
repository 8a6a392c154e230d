"""The product on its own: what a caller meets. That it computes the right numbers is parity's work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import pytest

import ltx2_mlx
from ltx2_mlx import BatchedPerturbationConfig, LTXModel, Modality, X0Model
from ltx2_mlx.nn import norm


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
    return ltx2_mlx.load("transformer", checkpoints / f"{request.param}.safetensors", mx.float32)


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
