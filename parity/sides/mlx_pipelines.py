"""Our pipelines, run with noise that torch draws, or would draw."""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock
from weakref import WeakKeyDictionary

import mlx.core as mx
import numpy as np

from ..declare.model import Files, Pipeline
from ..tap.nest import flatten
from ..tap.side import resolve
from ..tap.trace import Tensor
from ..tap.watch import Watched, record
from .mlx import MLX


class Replay:
    """Draws random numbers as ``ltx2_mlx.nn.noise.Generator`` does, from those that the reference drew.

    One for all the generators of a pipeline. Raises ValueError where ours draws another shape, or once more.
    """

    def __init__(self, draws: list[np.ndarray]):
        self.left = list(enumerate(draws))[::-1]

    def _next(self, shape: Sequence[int]) -> np.ndarray:
        if not self.left:
            raise ValueError(f"a draw of {tuple(shape)} that the reference does not make")
        index, values = self.left.pop()
        if values.shape != tuple(shape):
            raise ValueError(f"draw {index} has the shape {tuple(shape)}, the reference's has {values.shape}")
        return values

    def randn(self, shape: Sequence[int], dtype: mx.Dtype) -> mx.array:
        return mx.array(self._next(shape).astype(np.float32)).astype(dtype)

    def randn64(self, shape: Sequence[int]) -> np.ndarray:
        return self._next(shape).astype(np.float64)


class Named:
    """A generator whose draws are recorded under its seed. ``numbers`` makes them."""

    def __init__(self, seed: int, numbers: Any, into: Watched):
        self.seed, self.numbers, self.into = seed, numbers, into

    def initial_seed(self) -> int:
        """The seed, by the name that torch has for it."""
        return self.seed

    def randn(self, shape: Sequence[int], dtype: mx.Dtype) -> mx.array:
        noise: mx.array = self.numbers.randn(shape, dtype)
        self.into.draw(self, MLX().to_numpy(noise))
        return noise

    def randn64(self, shape: Sequence[int]) -> np.ndarray:
        noise: np.ndarray = self.numbers.randn64(shape)
        self.into.draw(self, Tensor(noise, "float64"))
        return noise


# The networks of the text side: pure functions of their weights and arguments.
TEXT = (
    "ltx2_mlx.text.gemma3:Gemma3TextModel.__call__",
    "ltx2_mlx.text.embeddings:EmbeddingsProcessor.process_hidden_states",
)
_Answers = dict[tuple[Any, ...], Any]
_answers: WeakKeyDictionary[type, _Answers] = WeakKeyDictionary()  # a copy with a fault in it has classes of its own


@contextlib.contextmanager
def encoded_once(side: MLX) -> Iterator[None]:
    """While it lasts, each text network runs once for the same file, dtype and arguments, in all the runs of this
    process. Every pipeline encodes the same two prompts, which takes half of its time; what comes out is watched and
    compared every time."""
    with contextlib.ExitStack() as undo:
        for place in TEXT:
            owner, name = resolve(place)
            answers = _answers.setdefault(owner, {})
            undo.enter_context(mock.patch.object(owner, name, _once(side, getattr(owner, name), answers)))
        yield


def _once(side: MLX, original: Callable[..., Any], answers: _Answers) -> Callable[..., Any]:
    signature = inspect.signature(original)

    @functools.wraps(original)  # the names of its arguments are looked up
    def run(module: Any, *args: Any, **kwargs: Any) -> Any:
        given = signature.bind(module, *args, **kwargs)
        given.apply_defaults()
        leaves = flatten({name: value for name, value in given.arguments.items() if name != "self"}, "", side, {})
        values = tuple((name, _identity(leaf)) for name, leaf in leaves.items())
        key = (str(module.load_report.path), module.load_report.dtype, values)
        if key not in answers:
            answers[key] = original(module, *args, **kwargs)
        return answers[key]

    return run


def _identity(leaf: Any) -> Any:
    """A leaf's value, as something that can be a key."""
    return (leaf.dtype, leaf.values.shape, leaf.values.tobytes()) if isinstance(leaf, Tensor) else leaf


def tokens_of(pipeline: Pipeline) -> contextlib.AbstractContextManager[Any]:
    """While it lasts, prompts are encoded in as many tokens as the pipeline declares."""
    prompts = importlib.import_module("ltx2_mlx.pipelines.prompts")
    tokenizer = functools.partial(prompts.LTXVGemmaTokenizer, max_length=pipeline.tokens)
    return mock.patch.object(prompts, "LTXVGemmaTokenizer", tokenizer)


def run_pipeline(pipeline: Pipeline, dtype: str, files: Files, noise: list[np.ndarray]) -> Watched:
    """Our pipeline. In float32 it draws its own noise, by the product's copy of torch's generator; in bfloat16 it is
    given the reference's ``noise``. What it raises, and draws left over, are the recording's error."""
    side, recording, replay, start = MLX(), Watched(), Replay(noise), time.monotonic()

    def arguments(of: Callable[[Files], dict[str, Any]]) -> Any:
        return side.materialise(of(files), pipeline, dtype, dtype)

    def call() -> Any:
        package = importlib.import_module("ltx2_mlx.pipelines")
        torch_noise = importlib.import_module("ltx2_mlx.diffusion.noisers").TorchNoise

        def named(seed: int) -> Named:
            return Named(seed, torch_noise(seed) if dtype == "float32" else replay, recording)

        settings = package.Settings(dtype=side.dtype(dtype), noise=named)
        made = getattr(package, pipeline.cls)(**arguments(pipeline.init), settings=settings)
        return made(**arguments(pipeline.call), **pipeline.on_ours)

    try:
        with encoded_once(side), tokens_of(pipeline), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*it changes nothing")  # a case has a LoRA of strength 0 on purpose
            record(side, pipeline, call, recording)
    except Exception as error:
        recording.error, recording.raised = f"{type(error).__name__}: {error}", error
    if recording.error is None and len(recording.noise) != len(noise):
        recording.error = f"{len(recording.noise)} draws were made, the reference makes {len(noise)}"
    recording.seconds = time.monotonic() - start
    return recording
