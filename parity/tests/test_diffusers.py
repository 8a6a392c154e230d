"""diffusers' classes as a side: what they compute is ltx-core's, where their configs can say the same."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from parity.declare.stages import stages
from parity.run import ports
from parity.run.environment import ROOT
from parity.run.ports import Subject
from parity.sides.port import NotComparableError, find
from parity.sides.torch.diffusers import velocity
from parity.sides.torch.diffusers_vae import video_decoder, video_encoder

ROWS = ["res_x", {"num_layers": 1, "inject_noise": True}], ["res_x", {"num_layers": 2}]
PLAIN, RESIDUAL = ["compress_all", {"multiplier": 1}], ["compress_all", {"multiplier": 2, "residual": True}]


@pytest.fixture(scope="module")
def timed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with a decoder that takes timesteps and draws noise, of blocks that diffusers has as well."""
    spec = importlib.util.spec_from_file_location("fixtures_make", ROOT / "fixtures" / "make.py")
    assert spec and spec.loader
    make: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    folder = make.HERE = tmp_path_factory.mktemp("timed")
    described = json.loads((ROOT / "fixtures" / "configs" / "tiny-2.0-timestep.json").read_text())
    described["config"]["vae"]["decoder_blocks"] = [*(ROWS[0], PLAIN, ROWS[1], RESIDUAL, ROWS[0], PLAIN, ROWS[0])]
    (folder / "configs").mkdir()
    (folder / "configs" / "timed.json").write_text(json.dumps(described))
    path = Path(folder / "timed.safetensors")
    path.write_bytes(make.build("timed"))
    return path


def judged(stage: str, config: str, case: str, lanes: str = "A", **files: Path) -> Subject:
    subject, whole = Subject("diffusers", find("diffusers", "port")), stages()[stage]
    one = replace(whole, cases=lambda config: {case: whole.cases(config)[case]})
    ports.run([(one, config)], lanes, ports.side("ltx-core", "reference"), [subject], files=files)
    return subject


def test_a_decoder_with_timesteps_and_noise_is_ltx_cores(timed: Path) -> None:
    found = judged("video_decoder", "tiny-2.0-timestep", "timestep", "AC", video_decoder=timed)
    rows = found.results.rows
    assert {row.verdict for row in rows} == {"pass"} and {row.lane for row in rows} == {"A", "C"}
    assert {"VideoDecoder", "up_blocks.0.time_embedder", "up_blocks.4.res_blocks.1.conv2"} <= {row.name for row in rows}


@pytest.mark.parametrize(
    ("stage", "config", "case"),
    [("audio_encoder", "tiny-2.0-audio-compat", "frames-4"), ("upsampler", "tiny-2.3-upsampler-time", "base")],
)
def test_every_tap_of_a_part_is_compared(stage: str, config: str, case: str, checkpoints: Path) -> None:
    found = judged(stage, config, case)
    (alignment,) = found.alignments
    assert alignment.compared == alignment.taps > 15
    assert {row.verdict for row in found.results.rows} == {"pass"}


def test_a_config_that_diffusers_cannot_say_is_not_comparable() -> None:
    config = json.loads((ROOT / "fixtures" / "configs" / "tiny-2.0-timestep.json").read_text())["config"]
    for make in (video_encoder, video_decoder):
        with pytest.raises(NotComparableError, match="diffusers has no block 'res_x_y' in a video VAE"):
            make(config)
    config["vae"]["decoder_blocks"] = [PLAIN, ROWS[0]]
    with pytest.raises(NotComparableError, match="a timestep embedding in every block"):
        video_decoder(config)
    config["vae"]["encoder_blocks"] = [["compress_space_res", {"multiplier": 2}]]
    with pytest.raises(NotComparableError, match="one variance for all channels"):
        video_encoder(config)
    config["vae"] |= {"latent_log_var": "uniform", "encoder_blocks": [["compress_time", 1]]}
    with pytest.raises(NotComparableError, match="resamples with a residual"):
        video_encoder(config)


def test_what_diffusers_cannot_be_given_is_not_comparable() -> None:
    runs, stands, none = SimpleNamespace(enabled=True), SimpleNamespace(enabled=False), None
    for video, audio in ((runs, stands), (stands, runs), (runs, none), (none, runs)):
        with pytest.raises(NotComparableError, match="both streams"):
            velocity(None, SimpleNamespace(video=video, audio=audio))
    with pytest.raises(NotComparableError, match="another class"):
        video_encoder({"vae": {"latent_channels": 8, "encoder": {"blocks": []}}})
