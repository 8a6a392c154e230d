"""Sections ``audio_vae`` and ``vocoder`` of a checkpoint's config: what is refused, and that the message names it."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import ModuleType

import pytest

from ltx2_mlx.config import AudioVAEConfig, CausalityAxis, NormType, read_vocoder_config
from ltx2_mlx.config.reading import types_of
from ltx2_mlx.errors import ConfigError

CONFIGS = Path(__file__).resolve().parent.parent / "fixtures" / "configs"


def config(name: str) -> dict:
    return json.loads((CONFIGS / f"{name}.json").read_text())["config"]


def dd(c: dict) -> dict:
    return c["audio_vae"]["model"]["params"]["ddconfig"]


def audio(c: dict) -> dict:
    return c["audio_vae"]["preprocessing"]


BAD_AUDIO = {
    "unknown key": (lambda c: dd(c).update(give_pre_end=True), "give_pre_end=True"),
    "unknown outer key": (lambda c: c["audio_vae"].update(latent_scale=2), "latent_scale"),
    "no attention key": (lambda c: dd(c).pop("mid_block_add_attention"), "lacks mid_block_add_attention"),
    "other norm": (lambda c: dd(c).update(norm_type="batch"), "norm_type is 'batch'"),
    "other axis": (lambda c: dd(c).update(causality_axis="depth"), "causality_axis is 'depth'"),
    "group norm over time": (lambda c: dd(c).update(norm_type="group"), "norm_type group with a causality_axis"),
    "pooling": (lambda c: dd(c).update(resamp_with_conv=False), "resamp_with_conv is False"),
    "width": (lambda c: dd(c).update(ch=64), "ch is 64, expected 128"),
    "no rate": (lambda c: c["audio_vae"]["model"]["params"].pop("sampling_rate"), "lacks sampling_rate"),
    "rates": (lambda c: audio(c)["audio"].update(sampling_rate=8000), "sampling_rate is 8000, expected 16000"),
    "window": (lambda c: audio(c)["stft"].update(win_length=512), "win_length is 512, expected 1024"),
    "mels": (lambda c: audio(c)["mel"].update(n_mel_channels=80), "n_mel_channels is 80, expected 64"),
    "highest mel": (lambda c: audio(c)["mel"].update(mel_fmax=7000), "mel_fmax is 7000, expected 8000"),
    "no model": (lambda c: c["audio_vae"].pop("model"), "audio_vae.model is None, expected a table"),
    "no section": (lambda c: c.pop("audio_vae"), "no section 'audio_vae'"),
}
BAD_VOCODER = {
    "unknown key": (lambda v: v["bwe"].update(gain=2.0), "gain=2.0"),
    "unknown table": (lambda v: v.update(post_filter={"a": 1}), "post_filter"),
    "other blocks": (lambda v: v["bwe"].update(resblock="2"), "vocoder.bwe.resblock is '2'"),
    "snake": (lambda v: v["vocoder"].update(activation="snake"), "vocoder.vocoder.activation is 'snake'"),
    "mono": (lambda v: v["vocoder"].update(stereo=False), "vocoder.vocoder.stereo is False"),
    "no hop": (lambda v: v["bwe"].pop("hop_length"), "vocoder.bwe lacks hop_length"),
    "hop": (lambda v: v["bwe"].update(hop_length=60), "upsampling in all is 240, expected 180"),
    "rate": (lambda v: v["bwe"].update(output_sampling_rate=44100), "output_sampling_rate is 44100"),
    "window": (lambda v: v["bwe"].update(win_size=400), "win_size is 400, expected 512"),
    "zero": (lambda v: v["bwe"].update(n_fft=0), "vocoder.bwe.n_fft is 0"),
    "kernels": (lambda v: v["vocoder"]["upsample_kernel_sizes"].pop(), "upsample_rates has 6 entries"),
    "even kernel": (lambda v: v["vocoder"].update(resblock_kernel_sizes=[3, 8, 11]), "expected odd numbers"),
    "dilations": (lambda v: v["vocoder"]["resblock_dilation_sizes"][0].pop(), "expected triples"),
    "halving": (lambda v: v["vocoder"].update(upsample_initial_channel=100), "cannot be halved 6 times"),
}


@pytest.mark.parametrize("name", BAD_AUDIO)
def test_a_bad_audio_section_is_refused(name: str) -> None:
    edit, message = BAD_AUDIO[name]
    _refused(config("tiny-2.0"), edit, message, AudioVAEConfig.from_metadata)


@pytest.mark.parametrize("name", BAD_VOCODER)
def test_a_bad_vocoder_section_is_refused(name: str) -> None:
    edit, message = BAD_VOCODER[name]
    _refused(config("tiny-2.3"), lambda c: edit(c["vocoder"]), message, read_vocoder_config)


def _refused(good: dict, edit: Callable[[dict], object], message: str, read: Callable[[dict], object]) -> None:
    read(good)
    bad = copy.deepcopy(good)
    edit(bad)
    with pytest.raises(ConfigError) as caught:
        read(bad)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_files_leave_out_has_its_meaning() -> None:
    c = config("tiny-2.0")
    del audio(c)["stft"]["causal"], dd(c)["double_z"], dd(c)["mel_bins"], audio(c)["audio"]
    read = AudioVAEConfig.from_metadata(c)
    assert (read.mel_bins, read.causal, read.sampling_rate) == (64, True, 16000)
    assert (read.norm_type, read.causality_axis) == (NormType.PIXEL, CausalityAxis.HEIGHT)
    assert read_vocoder_config(c).output_sampling_rate == 24000
    assert read_vocoder_config(config("tiny-2.3")).vocoder.output_sampling_rate == 16000


def test_a_config_keeps_its_own_field_types_while_another_copy_of_the_package_is_imported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, AudioVAEConfig.__module__, ModuleType("another"))
    types_of.cache_clear()
    assert types_of(AudioVAEConfig).keys() == {field.name for field in fields(AudioVAEConfig)}
