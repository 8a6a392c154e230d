"""Components larger than memory: on the meta device, and filled from the file a layer at a time as they run.

ltx-core's own configurators build the modules and its own key maps name their tensors; nothing of it is changed. A
layer's tensors are read before its forward and dropped after it. What is small stays, and so does what belongs to a
module that is used without a forward.
"""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ltx_core.loader.single_gpu_model_builder import SingleGPUModelBuilder

from ltx2_mlx.config import is_gemma4
from ltx2_mlx.loading.checkpoint import CheckpointPath

from ...tap.raw_safetensors import Place, places
from ...tap.session import Session
from ..loading import files_of
from .components import (
    BUILDERS,
    Torch,
    _randn,
    filters_made_once,
    gemma_files,
    gemma_model,
    gemma_name,
    in_file,
    rounded_to_fp8,
)
from .transformers import gemma4_model

SMALL = 2**18  # elements of a tensor that stays in memory: norms, biases and tables, 1 % of a block
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_DTYPES |= {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "BOOL": torch.bool, "U8": torch.uint8}
_DTYPES |= {"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8}


class Weights:
    """The tensors of a component in its files, by the names that they have in its module."""

    def __init__(self, files: Iterable[Path], rename: Callable[[str], str | None], ops: Any, dtype: torch.dtype):
        """rename: key → name, None for another component's. ops: the key map that values go through, or None. dtype:
        of the compared runs, to which everything is rounded first."""
        self._ops, self._dtype = ops, dtype
        self._where: dict[str, tuple[Path, Place, str]] = {}
        for file in files:
            for key, place in places(file)[0].items():
                if (renamed := rename(key)) is not None:
                    for name, _ in self._named(renamed, torch.empty(place.shape, device="meta")):
                        self._where[name] = file, place, renamed

    def __contains__(self, name: str) -> bool:
        return name in self._where

    def _named(self, renamed: str, value: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
        return [(renamed, value)] if self._ops is None else list(self._ops.apply_to_key_value(renamed, value))

    def read(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """The whole tensor, in memory of its own."""
        file, place, renamed = self._where[name]
        value = dict(self._named(renamed, _read(file, place)))[name]
        if not value.is_floating_point():
            return value.to(self._dtype, copy=True)
        exact = self._dtype == torch.float32 and value.dtype != torch.float64  # then one step does what two do
        return value.to(dtype, copy=True) if exact else value.to(self._dtype, copy=True).to(dtype)

    def read_rows(self, name: str, rows: list[int], dtype: torch.dtype) -> torch.Tensor:
        file, (kind, (_, *shape), offset), _ = self._where[name]
        size = prod(shape) * _DTYPES[kind].itemsize
        values = torch.stack([_read(file, Place(kind, shape, offset + row * size)) for row in rows])
        return values.to(self._dtype).to(dtype)


def _read(path: Path, place: Place) -> torch.Tensor:
    """A tensor, read and not mapped: torch maps a file to be written, which Linux refuses for one larger than memory,
    and pages of a mapping count as memory."""
    values = torch.empty(place.shape, dtype=_DTYPES[place.dtype])
    left = memoryview(values.reshape(-1).view(torch.uint8).numpy().data)
    with path.open("rb", buffering=0) as file:
        file.seek(place.offset)
        while left:
            if not (count := file.readinto(left)):
                raise RuntimeError(f"{path} ends before the tensor at byte {place.offset:,} does")
            left = left[count:]
    return values


class Pager:
    """Fills the tensors of a module from its files as its layers run.

    require: called with the bytes that are about to be read, before they are. moved: parameter → share of its elements
    that had a gradient while ``moving`` lasted.
    """

    def __init__(self, module: torch.nn.Module, weights: Weights, dtype: torch.dtype, small: int):
        self.module, self.weights, self.dtype = module, weights, dtype
        self.require: Callable[[int], None] = lambda nbytes: None
        self.moved: dict[str, float] = {}
        self._moving = self._holding = False
        self._held: list[tuple[torch.nn.Module, str, torch.Tensor]] = []
        self._masks: dict[str, np.ndarray] = {}  # of parameters of which only a part has moved yet, one bit an element
        self._columns: dict[str, np.ndarray] = {}  # of matrices: the columns that have moved
        self._resident: dict[str, tuple[torch.nn.Module, str]] = {}
        for path, layer in module.named_modules():
            own = _own(layer)
            names = {name: f"{path}.{name}" if path else name for name in own}
            if missing := [full for full in names.values() if full not in weights]:
                raise RuntimeError(f"the reference was left without {', '.join(missing)}")
            whole = type(layer).forward is torch.nn.Module.forward  # its tensors are used without a call
            large = {name: full for name, full in names.items() if not whole and own[name].numel() >= small}
            for name, full in names.items():
                if name not in large:
                    self._resident[full] = layer, name
                    _put(layer, name, weights.read(full, dtype))
            if large:
                layer.register_forward_pre_hook(self._filling(large))
                layer.register_forward_hook(self._dropping(large), always_call=True)

    def _filling(self, names: dict[str, str]) -> Any:
        def fill(layer: torch.nn.Module, args: tuple[Any, ...]) -> None:
            for name, full in names.items():
                hollow = getattr(layer, name)
                if not hollow.is_meta:
                    continue
                if isinstance(layer, torch.nn.Embedding):
                    _put(layer, name, self._rows(full, hollow.shape, args[0]))
                    layer.sparse = self._moving
                else:
                    self.require(hollow.numel() * self.dtype.itemsize)
                    _put(layer, name, self.weights.read(full, self.dtype))
                if self._moving and not _is_matrix(layer, name):
                    getattr(layer, name).requires_grad_(hollow.is_floating_point())

        return fill

    def _rows(self, name: str, shape: torch.Size, ids: torch.Tensor) -> torch.Tensor:
        """A table of which only the rows that are asked for take memory: the others are zeros that nothing touches."""
        rows = sorted(set(ids.flatten().tolist()))
        values = self.weights.read_rows(name, rows, self.dtype)
        blank = {2: np.uint16, 4: np.float32, 8: np.float64}[self.dtype.itemsize]
        table = torch.from_numpy(np.zeros(shape, blank)).view(self.dtype)
        table[rows] = values
        return table

    def _dropping(self, names: dict[str, str]) -> Any:
        def drop(layer: torch.nn.Module, args: Any, output: Any) -> None:
            for name, full in names.items():
                tensor = getattr(layer, name)
                if self._moving and _is_matrix(layer, name):
                    self._note_matrix(full, args[0])
                elif self._moving:
                    self._note(full, tensor)
                if self._holding:
                    self._held.append((layer, name, tensor))
                else:
                    _put(layer, name, torch.empty_like(tensor, device="meta"))

        return drop

    @contextlib.contextmanager
    def holding(self) -> Iterator[None]:
        """While it lasts, nothing is dropped: for a page that is run twice."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
            for layer, name, tensor in self._held:
                _put(layer, name, torch.empty_like(tensor, device="meta"))
            self._held.clear()

    @contextlib.contextmanager
    def moving(self, session: Session) -> Iterator[None]:
        """While it lasts, every parameter that moves a value of the session is noted in ``moved``."""
        generator = torch.Generator().manual_seed(0)

        def collect(values: Iterable[Any]) -> None:
            terms = [
                (value * _randn(value.shape, generator=generator, dtype=value.dtype)).sum()
                for value in values
                if isinstance(value, torch.Tensor) and value.requires_grad
            ]
            if terms:  # at once: a layer's gradient goes with it
                torch.autograd.backward(torch.stack(terms).sum(), retain_graph=True)

        resident = {full: getattr(layer, name) for full, (layer, name) in self._resident.items()}
        resident = {full: tensor for full, tensor in resident.items() if tensor.is_floating_point()}
        self._moving, session.on_values = True, collect
        try:
            with torch.enable_grad():
                for tensor in resident.values():
                    tensor.requires_grad_(True)
                yield
            for full, tensor in resident.items():
                self._note(full, tensor)
        finally:
            self._moving = False
            for tensor in resident.values():
                tensor.requires_grad_(False)

    def _note_matrix(self, name: str, x: torch.Tensor) -> None:
        """A matrix moves its layer's tap in the columns that meet an element of the input which is not 0. To have that
        as a gradient, which is a matrix of float64, took 3 to 17 % of a run."""
        moved = (x.reshape(-1, x.shape[-1]) != 0).any(0).numpy()
        moved |= self._columns.get(name, False)
        self._columns[name] = moved
        self.moved[name] = float(moved.mean())

    def _note(self, name: str, tensor: torch.Tensor) -> None:
        """The share of a tensor that has a gradient now, or had one in an earlier call."""
        gradient, tensor.grad = tensor.grad, None
        if self.moved.setdefault(name, 0.0) == 1.0 or gradient is None:
            return
        if gradient.is_sparse:  # of an embedding, which is called once
            share = int(torch.count_nonzero(gradient.coalesce().values())) / tensor.numel()
            self.moved[name] = max(self.moved[name], share)
            return
        if int(torch.count_nonzero(gradient)) == tensor.numel():
            self.moved[name] = 1.0
            return
        moved = np.packbits((gradient != 0).numpy())
        if name in self._masks:
            moved |= self._masks[name]
        self.moved[name] = int(np.bitwise_count(moved).sum()) / tensor.numel()
        if self.moved[name] < 1.0:
            self._masks[name] = moved
        else:
            self._masks.pop(name, None)


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """While it lasts, torch computes with so many threads: large matrices, one process. Of small ones each thread would
    wait for the others for longer than it computes."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Paged:
    """A component on torch's side and its float64 oracle, with their pagers."""

    reference: torch.nn.Module
    oracle: torch.nn.Module
    pagers: tuple[Pager, Pager]


def load_paged(
    component: str,
    path: CheckpointPath,
    config: dict[str, Any],
    dtype: str,
    small: int = SMALL,
    quantization: str | None = None,
) -> Paged:
    """A component of a checkpoint (or Gemma's folder), whose layers are read as they run. quantization: its weights are
    rounded to float8 as they are read; that a layer widens them when it computes is exact, and need not be repeated."""
    side, lane = Torch(), getattr(torch, dtype)
    if component == "gemma":
        module, weights = _gemma(files_of(path)[0], config, lane)
    else:
        module, weights = _built(component, path, config, lane, quantization)
    module = module.eval()
    oracle = side.as_oracle(copy.deepcopy(module))
    pagers = Pager(module, weights, lane, small), Pager(oracle, weights, torch.float64, small)
    return Paged(module, oracle, pagers)


def _built(
    component: str, path: CheckpointPath, config: dict[str, Any], dtype: torch.dtype, quantization: str | None
) -> tuple[torch.nn.Module, Weights]:
    configurator, ops = BUILDERS[component](config)
    files = files_of(path)
    ops = rounded_to_fp8(ops) if quantization else in_file(ops, *files)
    builder = SingleGPUModelBuilder(configurator, str(files[0]), model_sd_ops=ops)
    with filters_made_once():
        # Not builder.model_config(), which maps the whole file to be written: see _read.
        module: torch.nn.Module = builder.meta_model(json.loads(places(files[0])[1]["config"]), ())
    return module, Weights(files, ops.apply_to_key if ops else str, ops, dtype)


def _gemma(path: Path, config: dict[str, Any], dtype: torch.dtype) -> tuple[torch.nn.Module, Weights]:
    with torch.device("meta"):
        model: Any = gemma4_model(config) if is_gemma4(config) else gemma_model(config)
    # No file holds its rotary frequencies and the scale of its embedding: they are made where they are used.
    model.rotary_emb = type(model.rotary_emb)(model.config)
    model.embed_tokens.embed_scale = torch.tensor(model.embed_tokens.scalar_embed_scale)
    return model, Weights(gemma_files(path), gemma_name, None, dtype)


def _own(layer: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The tensors that a checkpoint holds of a module itself."""
    buffers = {n: b for n, b in layer._buffers.items() if n not in layer._non_persistent_buffers_set}
    return {name: t for name, t in {**layer._parameters, **buffers}.items() if t is not None}


def _is_matrix(layer: torch.nn.Module, name: str) -> bool:
    return isinstance(layer, torch.nn.Linear) and name == "weight"


def _put(layer: torch.nn.Module, name: str, tensor: torch.Tensor) -> None:
    if name in layer._buffers:
        layer._buffers[name] = tensor
    else:
        layer._parameters[name] = torch.nn.Parameter(tensor, requires_grad=False)
