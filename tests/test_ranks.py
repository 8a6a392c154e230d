"""``generate`` over two ranks: the same video as of one process; and what happens when they are not alike, or one dies.

The ranks are processes that meet through MLX's ring on this machine.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from unittest import mock

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from ltx2_mlx.cli import limit
from ltx2_mlx.cli.launch import agreed, of_rank
from ltx2_mlx.cli.limit import available
from ltx2_mlx.cli.main import main
from ltx2_mlx.cli.plan import plan
from ltx2_mlx.cli.recipes import parse
from ltx2_mlx.cli.request import Request
from ltx2_mlx.cli.shown import show
from ltx2_mlx.config import TransformerConfig
from ltx2_mlx.distributed.ranks import Ranks
from ltx2_mlx.distributed.table import SIZES, WAYS, Part, check_ranks, check_rules, parts_of, shapes_of, turns
from ltx2_mlx.errors import InputError, WeightsError
from ltx2_mlx.loading.checkpoint import read_checkpoint
from ltx2_mlx.loading.gemma import read_gemma
from ltx2_mlx.loading.load import build, load
from ltx2_mlx.loading.lora import LoraPathStrength
from ltx2_mlx.media.images import decode_image
from ltx2_mlx.transformer import LTXModel
from parity.run.over_ranks import ring
from parity.tests.rank_faults import OF_NOISE

DECODING = "ltx2_mlx.distributed.decoding"
SCRIPT = Path(__file__).with_name("rank.py")
Words = list[str | list[str]]  # a list stands for a word of each rank


@pytest.fixture
def line(checkpoints: Path) -> Words:
    """The words of a small video."""
    files = {
        "--distilled-checkpoint-path": "tiny-2.0.safetensors",
        "--gemma-root": "tiny-gemma",
        "--spatial-upsampler-path": "tiny-2.0-upsampler-x2.safetensors",
    }
    words: Words = [word for flag, name in files.items() for word in (flag, str(checkpoints / name))]
    size = ["--height", "64", "--width", "64", "--num-frames", "9"]
    return ["generate", *words, *size, "--prompt", "fox", "--dtype", "float32"]


@pytest.fixture
def single(line: Words) -> Words:
    """The same in two steps of one pass each, whose layers are split."""
    words: Words = ["--checkpoint-path" if word == "--distilled-checkpoint-path" else word for word in line]
    at = words.index("--spatial-upsampler-path")
    words[at : at + 2] = ["--pipeline", "ti2vid_one_stage", "--num-inference-steps", "2"]
    return [*words, *ALONE]


@pytest.fixture
def guided(line: Words, checkpoints: Path) -> Words:
    """The same with three passes a step, noise at every step and one pass in the steps of a second stage."""
    words: Words = ["--checkpoint-path" if word == "--distilled-checkpoint-path" else word for word in line]
    words += ["--pipeline", "ti2vid_two_stages_hq", "--num-inference-steps", "2"]
    words += ["--distilled-lora", str(checkpoints / "tiny-2.0-distilled-lora.safetensors")]
    return [*words, "--video-stg-guidance-scale", "0", "--audio-stg-guidance-scale", "0"]


@contextmanager
def started(*lines: Words, faults: Sequence[str] = ()) -> Iterator[list[subprocess.Popen[str]]]:
    """Two ranks that run these command lines, the first of them with the faults."""
    with ring(2) as environments, tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(list(zip_longest(faults, lines)), file)
        file.flush()
        command = [sys.executable, str(SCRIPT), file.name]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        ranks = [subprocess.Popen(command, env=os.environ | own, **pipes) for own in environments]
        try:
            yield ranks
        finally:
            for rank in ranks:
                rank.kill()
                rank.communicate()


def test_two_ranks_make_the_video_of_one_and_refuse_what_differs(
    line: Words, single: Words, guided: Words, tmp_path: Path, short_prompts: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """With layers that are split, up to the order of sums; with the passes of a step dealt out, the same latents. Both
    decode together, and noise to the same bytes, whole and in tiles, but where a BLAS sums in another order."""
    outputs = [tmp_path / name for name in ("one", "split", "one guided", "shared")]
    one, two, guided_one, shared = (
        [*words, "--quiet", "--output-path", str(output)]
        for words, output in zip((single, single, guided, guided), outputs, strict=True)
    )
    noise = [*map(str, line), "--placeholder", "--no-audio", "--num-frames", "17", "--quiet"]
    for words in (one, guided_one, [*noise, "--output-path", str(tmp_path / "noise")]):
        assert main(list(map(str, words))) == 0
    decoded: list[Words] = [
        [*noise, "--output-path", str(tmp_path / name), "--tiling", tiling]
        for name, tiling in (("whole", "auto"), ("tiles", "default"))
    ]
    fails = [["", f"{DECODING}._bytes"], *noise, "--num-frames", "9", "--output-path", str(tmp_path / "never")]
    wrong: Words = ["--context", [str(tmp_path / "new.safetensors"), str(outputs[0] / "audio.wav")]]
    refused = (two, shared, shared), ([*two, "--seed", ["1", "2"]], [*two, *wrong], fails)
    with started(*refused[0], *refused[1], *decoded, two, shared, faults=list(OF_NOISE)) as ranks:
        said = [rank.communicate(timeout=600) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said
    errors = said[0][1].splitlines()
    expected = [f"ltx2-mlx: the ranks have {what}" for _, what in OF_NOISE.values()]
    expected += ["ltx2-mlx: the command line: rank 0 has", "ltx2-mlx: rank 1: ", "ltx2-mlx: rank 1: it fails here"]
    assert [error[: len(start)] for error, start in zip(errors, expected, strict=True)] == expected
    assert said[1] == ("", "")  # the first rank speaks for both
    assert not (tmp_path / "never").exists()
    assert apart(outputs[0], outputs[1], 9) < 1e-3
    assert apart(outputs[2], outputs[3], 9) < 1e-4
    assert apart(tmp_path / "noise", tmp_path / "whole", 17) < 1e-4
    assert apart(tmp_path / "noise", tmp_path / "tiles", 17) < 1e-4
    others = [
        {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix != ".png"} for folder in outputs[2:]
    ]
    assert len(others[0]) == 2  # audio and settings
    assert others[0] == others[1]


def apart(one: Path, two: Path, frames: int) -> float:
    """The share of all bytes that differ, by 1 at most."""
    both = [[decode_image(file) for file in sorted(folder.glob("*.png"))] for folder in (one, two)]
    assert len(both[0]) == len(both[1]) == frames
    apart = [np.abs(np.array(a, np.int32) - np.array(b, np.int32)) for a, b in zip(*both, strict=True)]
    assert max(each.max() for each in apart) <= 1
    return float(np.mean([(each > 0).mean() for each in apart]))


@pytest.mark.parametrize(
    ("killed", "where", "other", "codes"),
    [
        (1, "ltx2_mlx.transformer.LTXModel.__call__", "", (2, 128 + signal.SIGTERM)),  # before or within a sum
        (0, "ltx2_mlx.nn.slabs.Share.neighbours", "", (2, 128 + signal.SIGTERM)),
        (1, f"{DECODING}._bytes", f"stuck {DECODING}._bytes", (128 + signal.SIGTERM,)),
    ],
)
def test_a_rank_that_is_killed_ends_the_other_with_one_line_and_no_file(
    killed: int, where: str, other: str, codes: tuple[int, ...], single: Words, tmp_path: Path
) -> None:
    """The other one waits for it, or does a long work of its own."""
    quick = [] if "transformer" in where else ["--placeholder", "--no-audio"]
    first = [other, f"killed {where}"] if killed else [f"killed {where}", other]
    with started([first, *single, *quick, "--output-path", str(tmp_path / "fox.mp4"), "--quiet"]) as ranks:
        said = [rank.communicate(timeout=300)[1] for rank in ranks]
        assert ranks[killed].returncode == -signal.SIGKILL
        assert ranks[1 - killed].returncode in codes
    assert said[1 - killed].endswith("\n") and said[1 - killed].count("\n") == 1
    assert said[1 - killed].startswith("ltx2-mlx: ") and "another rank has ended" in said[1 - killed]
    assert list(tmp_path.iterdir()) == []


# ---- the table ----------------------------------------------------------------------------------------------------


def test_every_number_but_two_and_four_is_refused() -> None:
    for size in (1, *SIZES):
        check_ranks(size)
    for size in (0, 3, 5, 6, 8):
        with pytest.raises(InputError, match=f"{size} ranks: the heads of a model are dealt out to 2 or 4"):
            check_ranks(size)


def test_each_parameter_has_one_rule_and_each_rule_a_parameter(checkpoints: Path) -> None:
    of_versions = [
        (component, name) for component in ("transformer", "embeddings_processor") for name in ("2.0", "2.3")
    ]
    for component, name in of_versions:
        module, _ = build(component, read_checkpoint(checkpoints / f"tiny-{name}.safetensors"))
        check_rules(component, shapes_of(module))
    module, _ = build("transformer", read_checkpoint(checkpoints / "tiny-2.5-transformer.safetensors"))
    check_rules("transformer", shapes_of(module))
    names = shapes_of(build("gemma", read_gemma(checkpoints / "tiny-gemma"))[0])
    check_rules("gemma", names)
    with pytest.raises(WeightsError, match=r"no rule says how layers\.0\.mlp\.new\.weight"):
        check_rules("gemma", [*names, "layers.0.mlp.new.weight"])
    with pytest.raises(WeightsError, match=r"the rule norm\.weight for ranks meets no parameter"):
        check_rules("gemma", [name for name in names if name != "norm.weight"])
    with pytest.raises(WeightsError, match="and"):
        check_rules("gemma", [*names, "layers.0.q_proj.o_proj.weight"])


def test_the_parts_of_all_ranks_are_the_whole(checkpoints: Path) -> None:
    module, _ = build("transformer", read_checkpoint(checkpoints / "tiny-2.3.safetensors"))
    shapes = shapes_of(module)
    for size in SIZES:
        every = [parts_of("transformer", module, shapes, rank, size) for rank in range(size)]
        for name, first in every[0].items():
            edges = [part[name] for part in every]
            assert [part.first for part in edges] == [0, *(part.last for part in edges[:-1])], name
            assert edges[-1].last == shapes[name][first.axis]
        biases = [name for name in every[1] if every[1][name].empty]
        assert biases and not any(name in every[0] for name in biases)


def test_fewer_heads_than_ranks_are_refused(checkpoints: Path) -> None:
    module, _ = build("gemma", read_gemma(checkpoints / "tiny-gemma"))
    with pytest.raises(InputError, match="has 2 heads, fewer than the 4 ranks"):
        parts_of("gemma", module, shapes_of(module), 0, 4)


def test_gemma_4_is_whole_on_every_rank(checkpoints: Path) -> None:
    path = checkpoints / "tiny-gemma4.safetensors"
    whole, own = (load("gemma", path, ranks=ranks) for ranks in (None, Ranks(1, 2)))
    expected: dict[str, mx.array] = dict(tree_flatten(whole.parameters()))
    found: dict[str, mx.array] = dict(tree_flatten(own.parameters()))
    assert found.keys() == expected.keys()
    assert all(mx.array_equal(found[name], array).item() for name, array in expected.items())


def test_a_rank_reads_its_part_of_the_file_and_no_more(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    cut = Part.cut
    monkeypatch.setattr(Part, "cut", lambda part, array: (made.append(cut(part, array).nbytes), cut(part, array))[1])
    path = checkpoints / "tiny-2.3.safetensors"
    ranks = [load("transformer", path, ranks=Ranks(rank, 2)) for rank in range(2)]
    whole = load("transformer", path)
    sizes = [{name: array.nbytes for name, array in tree_flatten(model.parameters())} for model in (*ranks, whole)]
    parts = parts_of("transformer", whole, shapes_of(whole), 0, 2)
    assert sum(sizes[0][name] + sizes[1][name] for name in parts) == sum(sizes[2][name] for name in parts)
    of_second = parts_of("transformer", whole, shapes_of(whole), 1, 2)
    zeros = sum(sizes[1][name] for name, part in of_second.items() if part.empty)
    assert sum(made) == sum(sizes[2][name] for name in parts) + zeros


@pytest.fixture(scope="module")
def packable(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LoraPathStrength]:
    """A transformer whose ranks have whole groups of 64 channels, and a LoRA for it."""
    tiny = read_checkpoint(checkpoints / "tiny-2.3.safetensors")
    widths = {"num_attention_heads": 4, "attention_head_dim": 32, "cross_attention_dim": 128, "caption_channels": 128}
    audio = {"audio_num_attention_heads": 4, "audio_attention_head_dim": 32, "audio_cross_attention_dim": 128}
    config = tiny.config | {"transformer": tiny.config["transformer"] | widths | audio | {"num_layers": 1}}
    shapes = shapes_of(LTXModel(TransformerConfig.from_metadata(config)))
    mx.random.seed(0)
    arrays = {f"model.diffusion_model.{name}": mx.random.normal(shape) for name, shape in shapes.items()}
    folder = tmp_path_factory.mktemp("packable")
    metadata = {"model_version": tiny.version, "config": json.dumps(config)}
    mx.save_safetensors(str(folder / "model.safetensors"), arrays, metadata)
    pairs = {}
    for layer in ("attn1.to_q", "attn1.to_out.0"):
        path = f"diffusion_model.transformer_blocks.0.{layer}"
        pairs[f"{path}.lora_A.weight"], pairs[f"{path}.lora_B.weight"] = (
            mx.random.normal((3, 128)),
            mx.random.normal((128, 3)),
        )
    mx.save_safetensors(str(folder / "lora.safetensors"), pairs)
    return folder / "model.safetensors", LoraPathStrength(folder / "lora.safetensors", 0.5)


@pytest.mark.parametrize("quantization", [None, "q8", "q4", "fp8-cast"])
def test_with_loras_and_fewer_bits_the_parts_are_those_of_the_same_numbers(
    quantization: str | None, packable: tuple[Path, LoraPathStrength]
) -> None:
    path, lora = packable

    def loaded(ranks: Ranks | None = None) -> nn.Module:
        return load("transformer", path, mx.bfloat16, [lora], quantization, ranks=ranks)

    whole = loaded()
    expected: dict[str, mx.array] = dict(tree_flatten(whole.parameters()))
    for rank in range(2):
        own: dict[str, mx.array] = dict(tree_flatten(loaded(Ranks(rank, 2)).parameters()))
        parts = parts_of("transformer", whole, shapes_of(whole), rank, 2)
        assert own.keys() == expected.keys()
        for name, array in own.items():
            wanted = np.array(expected[name].view(mx.uint8))
            if name in parts:
                itemsize = expected[name].itemsize if parts[name].axis == expected[name].ndim - 1 else 1
                part = parts[name]
                wanted = part._replace(first=part.first * itemsize, last=part.last * itemsize).cut(wanted)
            assert np.array_equal(np.array(array.view(mx.uint8)), wanted), name


# ---- passes ----------------------------------------------------------------------------------------------------------


def test_every_pass_has_one_rank_and_every_rank_as_many_as_can_be() -> None:
    for size in SIZES:
        for count in range(1, 5):
            dealt = [turns(count, rank, size) for rank in range(size)]
            assert sorted(i for own in dealt for i in own) == list(range(count))
            assert len(dealt[0]) - len(dealt[-1]) <= 1


@pytest.fixture
def asked(checkpoints: Path, tmp_path: Path, built_once: None) -> Callable[..., Request]:
    """A request for a video of four passes a step, with more flags."""

    def made(*flags: str, ranks: int = 2) -> Request:
        words = ["--pipeline", "ti2vid_one_stage", "--checkpoint-path", str(checkpoints / "tiny-2.0.safetensors")]
        words += ["--gemma-root", str(checkpoints / "tiny-gemma"), "--prompt", "fox", "--no-audio"]
        words += ["--height", "64", "--width", "64", "--num-frames", "9", "--dtype", "float32"]
        words += ["--video-stg-blocks", "1", "--audio-stg-blocks", "1", "--output-path", str(tmp_path / "x.mp4")]
        return parse("plan", [*words, "--ranks", str(ranks), *flags])

    return made


NO_TEXT = ("--video-cfg-guidance-scale", "1", "--audio-cfg-guidance-scale", "1")
ALONE = (*NO_TEXT, "--video-stg-guidance-scale", "0", "--audio-stg-guidance-scale", "0")
ALONE += ("--a2v-guidance-scale", "1", "--v2a-guidance-scale", "1")


@pytest.mark.parametrize(
    ("ranks", "flags", "expected"),
    [
        (2, (), "guidance"),
        (2, ("--parallel", "tensor"), "tensor"),
        (2, ALONE, "tensor"),
        (2, ("--low-memory",), "guidance"),
        (2, ("--memory-limit", "29MB"), "tensor"),  # whole text models take 29.1
        (4, (), "guidance"),  # which takes no heads apart: of the small Gemma's there are two
    ],
)
def test_passes_are_shared_where_each_rank_gets_one_and_has_the_memory(
    ranks: int, flags: tuple[str, ...], expected: str, asked: Callable[..., Request]
) -> None:
    made = plan(asked(*flags, ranks=ranks))
    assert made.problems == []
    assert (made.request.parallel, made.request.low_memory) == (expected, "--low-memory" in flags)


@pytest.mark.parametrize(
    ("ranks", "flags", "expected"),
    [
        (1, (), "--parallel guidance has no effect on one process: start several with mlx.launch or --hosts"),
        (2, ALONE, "--parallel guidance: without guidance a step is one pass, which cannot be dealt out"),
        (4, NO_TEXT, "--parallel guidance: a step has 3 passes, and of 4 ranks 3 would have none"),
    ],
)
def test_passes_that_cannot_be_shared_are_refused_with_the_reason(
    ranks: int, flags: tuple[str, ...], expected: str, asked: Callable[..., Request]
) -> None:
    problems = plan(asked("--parallel", "guidance", *flags, ranks=ranks)).problems
    assert len(problems) == 1
    assert expected in problems[0]


def test_where_whole_networks_do_not_fit_split_ones_are_proposed(
    asked: Callable[..., Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limit, "memory_size", lambda: 29_000_000)  # whole text models take 29.1 MB
    assert plan(asked()).request.parallel == "tensor"
    (problem,) = plan(asked("--parallel", "guidance")).problems
    assert "prompts takes about 29.11 MB of 29.00 MB of memory: use --parallel tensor, or --low-memory" in problem


def test_a_plan_says_what_each_rank_holds_and_sends(asked: Callable[..., Request]) -> None:
    split, shared = (show(plan(asked("--parallel", way))) for way in WAYS)
    assert "each of 2 ranks holds 0.80 MB of weights and sends 0.11 MB a step" in split
    # 17 tokens of 128 channels: each rank gives two passes to one other, and the step begins with a sum
    assert "each of 2 ranks holds 1.06 MB of weights, computes 2 of 4 passes at most and sends 0.03 MB a step" in shared


@dataclass
class Other(Ranks):
    """A rank whose peer answers with what it is given here."""

    answers: list[str] = field(default_factory=list)

    def told(self, words: str) -> list[str]:
        return [words, self.answers.pop(0) if self.answers else words]


def test_where_one_machine_lacks_the_memory_all_split_the_layers(asked: Callable[..., Request]) -> None:
    request = asked()
    planned = plan(request)
    assert planned.request.parallel == "guidance"
    of_agree = Other(0, 2)
    with mock.patch.object(Other, "agree"):
        assert agreed(of_agree, [], [request], planned) is planned
        other = agreed(Other(0, 2, answers=["tensor"]), [], [request], planned)
    assert other.request.parallel == "tensor"
    assert other.problems == []


def test_processes_of_one_machine_share_its_memory(asked: Callable[..., Request]) -> None:
    alone, both = (available(of_rank([asked()], Other(0, 2, answers=a))[0]) for a in (["another"], []))
    assert both == alone // 2
