"""Faults of paged weights, planted one at a time: each is seen by the statement about pages that it breaks."""

from __future__ import annotations

import importlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from parity.faults.catalogue import Fault, planted

BLOCKS = 6


def product(name: str = "") -> Any:
    return importlib.import_module(f"ltx2_mlx{name}")


@pytest.fixture(scope="module")
def wide(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformer of 6 blocks of 1 MB."""
    metadata = product(".loading.checkpoint").read_checkpoint(checkpoints / "tiny-2.0.safetensors").metadata
    config = json.loads(metadata["config"])
    config["transformer"] |= {"num_layers": BLOCKS, "attention_head_dim": 32, "audio_attention_head_dim": 16}
    config["transformer"] |= {"cross_attention_dim": 160, "audio_cross_attention_dim": 80}
    model = product(".transformer").LTXModel(product(".config").TransformerConfig.from_metadata(config))
    named = tree_flatten(model.parameters())
    tensors = {f"model.diffusion_model.{name}": x.astype(mx.bfloat16) for name, x in named}
    path = tmp_path_factory.mktemp("wide") / "wide.safetensors"
    mx.save_safetensors(str(path), tensors, metadata | {"config": json.dumps(config)})
    return path


# ---- statements ---------------------------------------------------------------------------------------------------


def same(whole: Any, paged: Any) -> bool:
    """Every page, filled twice, holds what the whole load holds."""
    expected = dict(tree_flatten(whole.parameters()))
    for page in [*paged.pages, *paged.pages]:
        with paged.pages.filled(page.path):
            found = {n: x for n, x in tree_flatten(paged.parameters()) if n.startswith(f"{page.path}.")}
        if not all(x.dtype == expected[n].dtype and mx.array_equal(x, expected[n]).item() for n, x in found.items()):
            return False
    return True


def loaded(component: str, path: Path, *rest: Any) -> tuple[Any, Any]:
    whole, paged = (product().load(component, path, *rest, paged=way) for way in (False, True))
    return whole, paged


def weights(folder: Path, wide: Path, tmp_path: Path) -> bool:
    lora = product().LoraPathStrength(folder / "tiny-2.0-lora.safetensors", 0.7)
    return same(*loaded("transformer", folder / "tiny-2.0.safetensors", mx.float32, [lora]))


def float8(folder: Path, wide: Path, tmp_path: Path) -> bool:
    return same(*loaded("transformer", folder / "tiny-2.0.safetensors", mx.bfloat16, [], "fp8-cast"))


def axes(folder: Path, wide: Path, tmp_path: Path) -> bool:
    return same(*loaded("video_decoder", folder / "tiny-2.0.safetensors"))


def amended(folder: Path, wide: Path, tmp_path: Path) -> bool:
    def halve(block: Any) -> None:
        block.attn2.to_out[0].weight = block.attn2.to_out[0].weight * 0.5

    both = loaded("transformer", folder / "tiny-2.0.safetensors")
    for module in both:
        product(".loading.paging").amend_blocks(module, halve)
    return same(*both)


def finite(folder: Path, wide: Path, tmp_path: Path) -> bool:
    header = product(".loading.checkpoint").read_checkpoint(folder / "tiny-2.0.safetensors")
    tensors = dict(header.arrays())
    key = "model.diffusion_model.transformer_blocks.1.attn1.to_q.bias"
    tensors[key] = mx.full(tensors[key].shape, float("nan"), mx.bfloat16)
    mx.save_safetensors(str(tmp_path / "nan.safetensors"), tensors, header.metadata)
    paged = product().load("transformer", tmp_path / "nan.safetensors", paged=True)
    return refused(lambda: paged.pages.fill("transformer_blocks.1"), key)


def unchanged(folder: Path, wide: Path, tmp_path: Path) -> bool:
    path = tmp_path / "cut.safetensors"
    shutil.copyfile(folder / "tiny-2.0.safetensors", path)
    paged = product().load("transformer", path, paged=True)
    os.utime(path, (1, 1))
    return refused(lambda: paged.pages.fill("transformer_blocks.1"), "has changed")


def refused(work: Callable[[], object], said: str) -> bool:
    try:
        work()
    except product().CheckpointError as error:
        return said in str(error)
    return False


def memory(folder: Path, wide: Path, tmp_path: Path) -> bool:
    """At most two pages while blocks run, and none after."""
    model, types = product().load("transformer", wide, mx.bfloat16, paged=True), product(".types")
    page = sum(x.nbytes for _, x in tree_flatten(model.transformer_blocks[0].parameters()))

    def stream(config: Any, count: int) -> Any:
        return types.Modality(
            latent=mx.ones((1, 4, config.in_channels), mx.bfloat16),
            sigma=mx.array([0.7]),
            timesteps=mx.full((1, 1, 1), 0.7),
            positions=mx.ones((1, count, 4, 2)),
            context=mx.ones((1, 3, model.config.caption_channels), mx.bfloat16),
        )

    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    outputs = model(stream(model.config.video, 3), stream(model.config.audio, 1))
    while_built = mx.get_active_memory() - before
    mx.eval(outputs)
    peak, after = mx.get_peak_memory() - before, mx.get_active_memory() - before
    return bool(peak < 2.4 * page and while_built < 0.2 * page and after < 0.2 * page)


STATEMENTS = {f.__name__: f for f in (weights, float8, axes, amended, finite, unchanged, memory)}

# ---- faults -------------------------------------------------------------------------------------------------------

PAGING, LOAD, HEADER = "loading/paging.py", "loading/weights.py", "loading/header.py"
IN_PAGES = "self.arrays.stream is not None"
FAULTS = (
    Fault(
        "PG01",
        "a page filled with the weights of the block before",
        LOAD,
        "keys = {name: self.keys[name] for name in names}",
        'keys = {n: self.keys[n.replace("blocks.2", "blocks.1") if self.arrays.stream else n] for n in names}',
        "weights",
    ),
    Fault(
        "PG02",
        "LoRAs not added to paged weights",
        LOAD,
        "{name: key}, self.loras, dtype, self.quantization)",
        f"{{name: key}}, () if {IN_PAGES} else self.loras, dtype, self.quantization)",
        "weights",
    ),
    Fault(
        "PG03",
        "a page in the file's dtype when it is read again",
        LOAD,
        "for name, array in self._read(name, key)\n",
        "for name, array in type(self)(**vars(self) | ({} if check else {'dtype': None}))._read(name, key)\n",
        "weights",
    ),
    Fault(
        "PG04",
        "paged weights not quantised",
        LOAD,
        "self.loras, dtype, self.quantization)",
        f"self.loras, dtype, None if {IN_PAGES} else self.quantization)",
        "float8",
    ),
    Fault(
        "PG05",
        "the axes of paged convolutions as in the file",
        LOAD,
        "if name in self.axes else array)",
        f'if name in self.axes and not ("_blocks." in name and {IN_PAGES}) else array)',
        "axes",
    ),
    Fault(
        "PG06",
        "a change of the blocks made to none of them",
        PAGING,
        "        if self.amend is not None:\n",
        "        if self.amend is None:\n            return\n        if page.path in self._next:\n",
        "amended",
    ),
    Fault(
        "PG07",
        "NaN looked for when a page is read again only",
        PAGING,
        "check=page.path not in self._known",
        "check=page.path in self._known",
        "finite",
    ),
    Fault(
        "PG08",
        "a file that has changed read on",
        LOAD,
        "            arrays.check()\n",
        "            pass\n",
        "unchanged",
    ),
    Fault(
        "PG09",
        "a page dropped before its result is evaluated",
        PAGING,
        "            mx.eval(list(_arrays(result)))",
        "            list(_arrays(result))",
        "memory",
    ),
    Fault(
        "PG10", "a page never dropped", PAGING, "        if not self._filled[path]:\n", "        if False:\n", "memory"
    ),
    Fault(
        "PG11",
        "what was read from the file kept",
        HEADER,
        "return opened.pop(info.key)",
        "return opened[info.key]",
        "memory",
    ),
    Fault(
        "PG12",
        "all that follows a page begun to be read with it",
        PAGING,
        "self._source.start(self._pages[self._next[page.path]].parameters)",
        "self._source.start([n for other in self._next.values() for n in self._pages[other].parameters])",
        "memory",
    ),
)


@pytest.mark.parametrize("name", STATEMENTS)
def test_pages_are_as_stated(name: str, checkpoints: Path, wide: Path, tmp_path: Path) -> None:
    assert STATEMENTS[name](checkpoints, wide, tmp_path)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id)
def test_a_planted_fault_of_pages_is_found(fault: Fault, checkpoints: Path, wide: Path, tmp_path: Path) -> None:
    with planted(fault) as copy:
        assert not STATEMENTS[fault.tap](checkpoints, wide, tmp_path), f"{fault.description}: not noticed"
        assert copy.ran
