"""Which part of each parameter a rank holds: one table for each network that is split.

A layer is split so that what lies between two layers stays on its rank. The first of a pair has some of the output
channels (``COLUMNS``: heads of attention, channels of a feed-forward), the second the input channels that belong to
them (``ROWS``), and its results are summed over the ranks. All else is ``WHOLE`` on every rank: 3 % of the weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from ..config import TransformerConfig
from ..errors import InputError, WeightsError
from ..nn.attention import Attention
from ..text.gemma3 import Gemma3Attention
from ..text.gemma4 import Gemma4UnifiedTextModel

Shapes = dict[str, tuple[int, ...]]
SIZES = (2, 4)  # the numbers of ranks that are proven
WAYS = ("tensor", "guidance")  # what ranks share: each layer of a network, or the passes of a step


class Split(Enum):
    """How a layer is dealt out. A norm that is ``SPREAD`` has the weights of its rank's heads, and the mean square of
    all heads."""

    WHOLE = "whole"
    COLUMNS = "output channels"
    ROWS = "input channels"
    SPREAD = "channels"


@dataclass(frozen=True)
class Rule:
    """What becomes of the parameters whose paths match a glob. by_heads: the heads of the attention that the layer is
    in are dealt out, and not its channels. some: only some versions of the network have such parameters."""

    paths: str
    split: Split
    by_heads: bool = False
    some: bool = False


_ATTENTION = (
    *(Rule(f"*.to_{name}.*", Split.COLUMNS, by_heads=True) for name in "qkv"),
    Rule("*.to_gate_logits.*", Split.COLUMNS, by_heads=True, some=True),
    Rule("*.?_norm.weight", Split.SPREAD, by_heads=True),
    Rule("*.to_out.0.*", Split.ROWS, by_heads=True),
    Rule("*ff.net.0.proj.*", Split.COLUMNS),
    Rule("*ff.net.2.*", Split.ROWS),
)
RULES: dict[str, tuple[Rule, ...]] = {
    "transformer": (
        *_ATTENTION,
        Rule("*patchify_proj.*", Split.WHOLE),
        Rule("keyframes_abs_pos_embedding", Split.WHOLE, some=True),
        # Modulation is added to the residual stream, which every rank has whole
        Rule("*adaln_single.*", Split.WHOLE),
        Rule("*scale_shift_table*", Split.WHOLE),
        Rule("*caption_projection.*", Split.WHOLE, some=True),
        Rule("*proj_out.*", Split.WHOLE),
    ),
    "embeddings_processor": (
        *_ATTENTION,
        Rule("feature_extractor.*", Split.WHOLE),
        Rule("*.learnable_registers", Split.WHOLE),
    ),
    "gemma": (
        *(Rule(f"*.{name}_proj.*", Split.COLUMNS, by_heads=True) for name in "qkv"),
        Rule("*.o_proj.*", Split.ROWS, by_heads=True),
        Rule("*.gate_proj.*", Split.COLUMNS),
        Rule("*.up_proj.*", Split.COLUMNS),
        Rule("*.down_proj.*", Split.ROWS),
        Rule("embed_tokens.*", Split.WHOLE),
        Rule("*.self_attn.?_norm.weight", Split.WHOLE),  # of one head
        Rule("*_layernorm.weight", Split.WHOLE),
        Rule("norm.weight", Split.WHOLE),
    ),
}


class Part(NamedTuple):
    """The slice ``first:last`` of one axis. empty: zeros of the whole shape stand in its place."""

    axis: int
    first: int
    last: int
    empty: bool = False

    def of(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of this part of an array."""
        return shape if self.empty else (*shape[: self.axis], self.last - self.first, *shape[self.axis + 1 :])

    def cut(self, array: np.ndarray) -> np.ndarray:
        """This part of a mapped file: nothing else of it is copied."""
        if self.empty:
            return np.zeros(array.shape, array.dtype)
        return np.ascontiguousarray(array[(slice(None),) * self.axis + (slice(self.first, self.last),)])


def check_ranks(size: int) -> None:
    """Raises InputError for a number of ranks that is not supported."""
    if size not in (1, *SIZES):
        raise InputError(f"{size} ranks: the heads of a model are dealt out to {' or '.join(map(str, SIZES))}")


def rule_of(component: str, name: str) -> Rule:
    """The rule of a parameter. Raises WeightsError where it has none, or several."""
    rules = [rule for rule in RULES[component] if fnmatchcase(name, rule.paths)]
    if len(rules) != 1:
        said = " and ".join(rule.paths for rule in rules) or "no rule"
        raise WeightsError(f"{component}: {said} says how {name} is split over ranks, expected one rule")
    return rules[0]


def check_rules(component: str, names: Iterable[str]) -> None:
    """Raises WeightsError unless each parameter of a network has one rule, and each rule meets a parameter."""
    met = {rule_of(component, name) for name in names}
    if idle := [rule.paths for rule in RULES[component] if not rule.some and rule not in met]:
        raise WeightsError(f"{component}: the rule {idle[0]} for ranks meets no parameter")


def heads_of(attention: nn.Module) -> int:
    """How many heads can be dealt out: of grouped queries, those of keys and values."""
    if isinstance(attention, Gemma3Attention):
        return attention.groups
    assert isinstance(attention, Attention)
    return attention.heads


def bounds(count: int, rank: int, size: int) -> tuple[int, int]:
    """The first of ``count`` things that a rank has, and the first that it has not. As even as can be."""
    return count * rank // size, count * (rank + 1) // size


def is_split(module: nn.Module) -> bool:
    """False for Gemma 4, which every rank has whole: its global layers have one head of keys, and that is their values
    as well."""
    return not isinstance(module, Gemma4UnifiedTextModel)


def parts_of(component: str, module: nn.Module, shapes: Shapes, rank: int, size: int) -> dict[str, Part]:
    """Parameter → the part that a rank holds, for those that are not whole. module: with all of its heads. shapes: of
    whole parameters, in the module or in its file.

    Raises InputError where there are fewer heads than ranks, or numbers that cannot be dealt out.
    """
    modules = dict(module.named_modules())
    result: dict[str, Part] = {}
    for name, shape in shapes.items() if is_split(module) else ():
        rule, leaf = rule_of(component, name), name.rpartition(".")[2]
        if rule.split is Split.WHOLE:
            continue
        if rule.split is Split.ROWS and leaf == "bias":
            # The sum of the ranks has it once: the first rank's (tap: to_out.0, net.2)
            if rank:
                result[name] = Part(0, 0, shape[0], empty=True)
        elif (axis := _axis(rule.split, leaf, shape)) is not None:
            count = heads_of(_attention(modules, name)) if rule.by_heads else size
            if count < size:
                raise InputError(f"{component}: {name} has {count} heads, fewer than the {size} ranks")
            first, last = (shape[axis] * edge for edge in bounds(count, rank, size))
            if first % count or last % count:
                raise InputError(f"{component}: {shape[axis]} numbers of {name} cannot be split over {size} ranks")
            result[name] = Part(axis, first // count, last // count)
    return result


def _axis(split: Split, leaf: str, shape: tuple[int, ...]) -> int | None:
    """The axis of a layer's parameter that is split; None where the ranks have it whole."""
    if split is Split.ROWS:
        return 1 if leaf in ("weight", "scales", "biases", "lora_A") else None
    return None if leaf == "lora_A" or shape == () else 0  # () is one scale for a whole weight


def _attention(modules: dict[str, nn.Module], name: str) -> nn.Module:
    """The attention that a parameter is in."""
    owners: Iterator[str] = (name.rsplit(".", i)[0] for i in range(1, name.count(".") + 1))
    return next(modules[path] for path in owners if isinstance(modules.get(path), (Attention, Gemma3Attention)))


def shapes_of(module: nn.Module) -> Shapes:
    """Parameter → its shape."""
    parameters: dict[str, mx.array] = dict(tree_flatten(module.parameters()))
    return {name: array.shape for name, array in parameters.items()}


def sent(config: TransformerConfig, tokens: int, of_audio: int, itemsize: int, size: int) -> int:
    """Bytes that a rank sends in one pass over ``tokens`` video and ``of_audio`` audio tokens: of each sum, all but its
    own share, twice. There is one after each attention and feed-forward; those of the norms are a number a token."""
    video, audio = tokens * config.inner_dim, of_audio * config.audio_inner_dim
    layers = 4 if config.use_audio_video_cross_attention else 3  # self, text, the other stream, feed-forward
    summed = layers * (video + audio * (layers > 3)) * itemsize
    return 2 * (size - 1) * config.num_layers * summed // size


# ---- passes ----------------------------------------------------------------------------------------------------------


def turns(count: int, rank: int, size: int) -> range:
    """The numbers of the passes that a rank computes, where the passes of a step are dealt out. The first has most."""
    return range(rank, count, size)


def sent_of_passes(config: TransformerConfig, tokens: int, of_audio: int, itemsize: int, count: int, size: int) -> int:
    """Bytes that a rank sends for ``count`` passes that are dealt out: the latents that all start from are a sum, and
    of what is gathered it passes on all but one rank's."""
    latents = (tokens * config.in_channels + of_audio * config.audio_in_channels) * itemsize
    return 2 * (size - 1) * latents // size + (size - 1) * len(turns(count, 0, size)) * latents
