"""The configs of released files, as far as convolutions depend on them: the tiny ones with the real sizes in them.

Source: the headers of LTX-2 19B (2.0) and LTX-2.3 22B, and of their upsamplers.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

_TINY = Path(__file__).resolve().parents[1] / "fixtures" / "configs"

_BLOCKS: dict[str, dict[str, list[tuple[str, dict[str, Any]]]]] = {
    "2.0": {
        "encoder_blocks": [
            ("res_x", {"num_layers": 4}),
            ("compress_space_res", {"multiplier": 2}),
            ("res_x", {"num_layers": 6}),
            ("compress_time_res", {"multiplier": 2}),
            ("res_x", {"num_layers": 6}),
            ("compress_all_res", {"multiplier": 2}),
            ("res_x", {"num_layers": 2}),
            ("compress_all_res", {"multiplier": 2}),
            ("res_x", {"num_layers": 2}),
        ],
        "decoder_blocks": [
            *3 * [("res_x", {"num_layers": 5}), ("compress_all", {"residual": True, "multiplier": 2})],
            ("res_x", {"num_layers": 5}),
        ],
    },
    "2.3": {
        "encoder_blocks": [
            ("res_x", {"num_layers": 4}),
            ("compress_space_res", {"multiplier": 2}),
            ("res_x", {"num_layers": 6}),
            ("compress_time_res", {"multiplier": 2}),
            ("res_x", {"num_layers": 4}),
            ("compress_all_res", {"multiplier": 2}),
            ("res_x", {"num_layers": 2}),
            ("compress_all_res", {"multiplier": 1}),
            ("res_x", {"num_layers": 2}),
        ],
        "decoder_blocks": [
            ("res_x", {"num_layers": 4}),
            ("compress_space", {"multiplier": 2}),
            ("res_x", {"num_layers": 6}),
            ("compress_time", {"multiplier": 2}),
            ("res_x", {"num_layers": 4}),
            ("compress_all", {"multiplier": 1}),
            ("res_x", {"num_layers": 2}),
            ("compress_all", {"multiplier": 2}),
            ("res_x", {"num_layers": 2}),
        ],
    },
}
# Upsamplers by file name.
_UPSAMPLERS = {
    "2.0 spatial x2": {"mid_channels": 1024, "rational_resampler": True, "spatial_scale": 2.0},
    "2.3 spatial x2": {"mid_channels": 1024},
    "2.3 spatial x1.5": {"mid_channels": 1024, "rational_resampler": True, "spatial_scale": 1.5},
    "temporal x2": {"mid_channels": 512, "spatial_upsample": False, "temporal_upsample": True},
    "both x2": {"mid_channels": 512, "temporal_upsample": True},
}
UPSAMPLERS = {name: {"in_channels": 128, "num_blocks_per_stage": 4, **own} for name, own in _UPSAMPLERS.items()}


def config(version: str) -> dict[str, Any]:
    """The ``config`` of a released file (2.0 or 2.3) with the real sections ``vae``, ``audio_vae`` and ``vocoder``."""
    found = copy.deepcopy(json.loads((_TINY / f"tiny-{version}.json").read_text())["config"])
    found["vae"] |= _BLOCKS[version] | {"decoder_base_channels": 128}
    found["audio_vae"]["model"]["params"]["ddconfig"] |= {"ch": 128, "ch_mult": [1, 2, 4], "num_res_blocks": 2}
    if version == "2.0":
        found["vocoder"] |= {"upsample_initial_channel": 1024}
    else:
        found["vocoder"]["vocoder"] |= {"upsample_initial_channel": 1536}
        found["vocoder"]["bwe"] |= {"upsample_initial_channel": 512}
    return found
