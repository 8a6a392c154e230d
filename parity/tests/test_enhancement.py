"""Prompt enhancement: what Gemma is given, and when. Neither mlx-lm nor mlx-vlm is needed: fakes stand for them."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest
import torch
from PIL import Image

from ltx2_mlx.cli import plan as planning
from ltx2_mlx.cli.recipes import RECIPES, parse
from ltx2_mlx.diffusion.guiders import MultiModalGuiderParams
from ltx2_mlx.errors import InputError
from ltx2_mlx.loading.lora import LoraPathStrength
from ltx2_mlx.pipelines import stages
from ltx2_mlx.pipelines.enhancement import IMAGE_SYSTEM_PROMPT, SYSTEM_PROMPT, enhance_prompt
from ltx2_mlx.pipelines.ledger import ModelLedger, Settings
from ltx2_mlx.types import Audio, ImageConditioningInput
from parity.declare.inputs import FIXTURES, GEMMA
from parity.sides import torch as reference  # noqa: F401  what of torch ltx_pipelines can do without

IMAGES = [ImageConditioningInput("b.png", 8, 1.0), ImageConditioningInput("a.png", 0, 1.0)]


class FakeLM:
    """mlx-lm and mlx-vlm as far as they are used: notes what it is given, draws random numbers as they would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *modules: str):
        self.answer, self.given, self.draws = "  — “A fox’s walk”, slowly.", {}, 1
        self.config = SimpleNamespace(hidden_size=2048, text_config=SimpleNamespace(hidden_size=44))
        for module in ("mlx_lm", "mlx_lm.sample_utils", "mlx_vlm"):
            monkeypatch.setitem(sys.modules, module, self if module in modules else None)

    @property
    def tokenizer(self) -> FakeLM:
        return self

    def load(self, folder: str) -> tuple[FakeLM, FakeLM]:
        self.given["folder"] = folder
        mx.eval([mx.random.uniform() for _ in range(self.draws)])
        return self, self

    def apply_chat_template(
        self, messages: list[dict[str, object]], add_generation_prompt: bool, tokenize: bool = True
    ) -> list[int] | str:
        assert add_generation_prompt
        self.given["messages"] = messages
        return [2, 5] if tokenize else "<turn>"

    def make_sampler(self, temp: float) -> float:
        return temp

    def generate(self, model: object, tokenizer: object, prompt: object, **options: object) -> object:
        drawn = [mx.random.uniform().item() for _ in range(self.draws)]
        self.given |= options | {"prompt": prompt, "drawn": drawn, "hidden_size": self.config.hidden_size}
        return SimpleNamespace(text=self.answer) if "image" in options else self.answer


def enhanced_twice(fake: FakeLM, **options: object) -> dict[str, object]:
    """The arguments that Gemma is given; how much it draws changes nothing of what is drawn afterwards."""
    following = set()
    for draws in (1, 5):
        fake.draws = draws
        mx.random.seed(7)
        assert enhance_prompt(" a fox ", GEMMA, seed=3, **options) == "A fox's walk\", slowly."
        following.add(mx.random.uniform().item())
    assert len(following) == 1
    mx.random.seed(3)
    assert fake.given["drawn"][0] == mx.random.uniform().item()
    assert fake.given["folder"] == str(GEMMA) and fake.given["max_tokens"] == 512
    assert [m["role"] for m in fake.given["messages"]] == ["system", "user"]
    return fake.given


def test_prompt_enhancement_asks_gemma_and_leaves_the_random_state(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeLM(monkeypatch, "mlx_lm", "mlx_lm.sample_utils")
    given = enhanced_twice(fake)
    assert [m["content"] for m in given["messages"]] == [SYSTEM_PROMPT, "a fox"]
    assert (given["prompt"], given["sampler"]) == ([2, 5], 0.7)
    fake.answer = "... 123"
    with pytest.raises(InputError, match="made nothing of the prompt"):
        enhance_prompt("a fox", GEMMA)


def test_prompt_enhancement_shows_gemma_the_picture_as_the_reference_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its longer side brought to 896 pixels, before the prompt; with features as large as the model expects them."""
    from ltx_pipelines.utils import media_io

    path = tmp_path / "first.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 100, 3), np.uint8)).save(path)
    given = enhanced_twice(FakeLM(monkeypatch, "mlx_vlm"), image_path=path)
    picture = [{"type": "image"}, {"type": "text", "text": "a fox"}]
    assert [m["content"] for m in given["messages"]] == [IMAGE_SYSTEM_PROMPT, picture]
    assert (given["prompt"], given["temperature"], given["hidden_size"]) == ("<turn>", 0.7, 44)
    assert given["skip_special_tokens"] is True
    wanted = media_io.resize_aspect_ratio_preserving(torch.tensor(media_io.decode_image(str(path))), 896).numpy()
    assert given["image"].size == (896, 537) and np.abs(np.int32(given["image"]) - wanted).max() <= 1


class EnoughError(Exception):
    """Raised where a pipeline has said what it wants enhanced."""


def asked(monkeypatch: pytest.MonkeyPatch, name: str, **given: object) -> dict[str, object]:
    """The arguments that the pipeline of this name gives to enhance_prompt."""
    seen = {}

    def enhanced(prompt: str, gemma_root: str, **options: object) -> str:
        seen.update(options | {"prompt": prompt, "gemma_root": gemma_root})
        raise EnoughError

    monkeypatch.setattr(stages, "enhanced", enhanced)
    module = importlib.import_module(f"ltx2_mlx.pipelines.{name}")
    if name == "a2vid_two_stage":
        monkeypatch.setattr(module, "read_audio", lambda *given: Audio(None, 16000))
    pipeline = next(c for c in vars(module).values() if inspect.isclass(c) and c.__module__ == module.__name__)
    given |= {"prompt": "short", "height": 64, "width": 64, "num_frames": 9, "frame_rate": 24.0, "seed": 5}
    guidance = dict.fromkeys(("video_guider_params", "audio_guider_params"), MultiModalGuiderParams())
    given |= {"negative_prompt": "", "num_inference_steps": 2, **guidance}
    given |= {"distilled_lora_strength_stage_1": 1.0, "distilled_lora_strength_stage_2": 1.0}
    checkpoint = FIXTURES / "tiny-2.0.safetensors"  # whose version the pipeline asks for
    given |= {"checkpoint_path": checkpoint, "distilled_checkpoint_path": checkpoint}
    given |= {"gemma_root": "gemma", "enhance_prompt": True, "distilled_lora": [LoraPathStrength("lora")]}
    calls = [inspect.signature(function).parameters for function in (pipeline.__init__, pipeline.__call__)]
    made, called = (
        {key: given.get(key, ()) for key, p in parameters.items() if key in given or p.default is p.empty}
        for parameters in calls
    )
    made.pop("self"), called.pop("self")
    with pytest.raises(EnoughError):
        pipeline(**made)(**called)
    return seen


@pytest.mark.parametrize("name", sorted(set(RECIPES) - {"retake"}))  # which takes no images
def test_every_pipeline_shows_what_the_reference_shows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(importlib.util.find_spec("ltx_pipelines").submodule_search_locations[0])
    source = (folder / f"{name}.py").read_text()
    path = "b.png" if "enhance_prompt_image=images[0][0]" in source else None
    seed = 5 if "enhance_prompt_seed=seed" in source else 42
    wanted = {"prompt": "short", "gemma_root": "gemma", "seed": seed}
    assert asked(monkeypatch, name, images=IMAGES) == wanted | {"image_path": path}
    assert asked(monkeypatch, name, images=()) == wanted | {"image_path": None}


def test_the_enhanced_prompt_takes_the_place_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "enhanced", lambda *given, **options: "long")
    ledger = ModelLedger("", "gemma", settings=Settings(contexts={"long": "of long", "bad": "of bad"}))
    assert stages.prompt_contexts(ledger, ["short", "bad"], True) == ["of long", "of bad"]


@pytest.mark.parametrize(
    ("flags", "module", "extra"),
    [((), "mlx_lm", "enhance"), (("--image", "a.png", "0", "1"), "mlx_vlm", "enhance-image")],
)
def test_the_plan_says_what_to_install(
    flags: tuple[str, ...], module: str, extra: str, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = str(checkpoints / "tiny-2.3.safetensors")
    required = ["--prompt", "a fox", "--output-path", "a.mp4", "--pipeline", "ti2vid_one_stage"]
    args = parse("plan", ["--checkpoint-path", checkpoint, *required, *flags, "--enhance-prompt"])
    line = f"--enhance-prompt needs {module.replace('_', '-')}: pip install 'ltx2-mlx[{extra}]'"
    for missing in (True, False):
        for name in ("mlx_lm", "mlx_vlm"):
            there = ModuleType(name)
            there.__spec__ = ModuleSpec(name, None)
            monkeypatch.setitem(sys.modules, name, None if missing == (name == module) else there)
        assert (line in planning.plan(args).problems) is missing


@pytest.mark.parametrize(("image", "extra"), [(None, "enhance"), (__file__, "enhance-image")])
def test_prompt_enhancement_without_its_extra_says_what_to_install(
    image: str | None, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeLM(monkeypatch)
    with pytest.raises(InputError, match=rf"pip install 'ltx2-mlx\[{extra}\]'"):
        enhance_prompt("a fox", GEMMA, image_path=image)
