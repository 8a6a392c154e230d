"""The tokens that attention masks hide: Gemma's by side of the padding, the connectors', and the transformer's."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np

from ..declare.inputs import uniform
from ..declare.model import Case, Data
from ..declare.stages.embeddings_processor import hidden_states
from ..tap.trace import Tensor, Trace
from .finding import Finding, Pictures, Table
from .subject import FRAMES, HEIGHT, WIDTH, Subject, contexts_of, transformer_case

TOKENS, VALID = 17, 11  # of the prompt that is looked at; the others are pads
HIDDEN = -1e4  # an additive mask that holds less than this hides


@dataclass(frozen=True)
class Mask:
    """seen ``(rows, columns)``: true where a query sees a key. output ``(rows, D)``: of its attention."""

    where: str
    kind: str
    seen: np.ndarray
    pads: np.ndarray
    output: np.ndarray | None

    @property
    def blind(self) -> np.ndarray:
        return np.logical_not(self.seen.any(axis=1))

    @property
    def becomes(self) -> str:
        """The output of the attention for rows that see nothing, as a word."""
        if not self.blind.any() or self.output is None:
            return "–"
        rows = self.output[self.blind]
        if not np.isfinite(rows).all():
            return "NaN"
        return "zero" if not rows.any() else "values"


def look(subject: Subject, args: argparse.Namespace) -> Finding:
    masks = {
        key: [*_gemma(subject, key), *_connectors(subject, key), *_self_attention(subject, key)]
        for key in subject.sides
    }
    rows = []
    for sides in zip(*masks.values(), strict=True):
        m = sides[0]
        seen_pads = int(m.seen[:, m.pads].sum()) if len(m.pads) == m.seen.shape[1] else 0
        rows.append(
            (
                m.where,
                m.kind,
                *(f"{s.seen.mean():.0%}" for s in sides),
                seen_pads,
                int(m.blind.sum()),
                *(s.becomes for s in sides),
            )
        )
    columns = ["mask", "kind", *(f"sees {key}" for key in masks), "pads seen", "blind rows"]
    table = Table(
        "what is seen, and what becomes of rows that see nothing", (*columns, *(f"become {k}" for k in masks)), rows
    )
    shown = {m.where: m.seen.astype(float) for m in masks["ours"] if "layer 0" in m.where or "self" in m.where}
    return Finding(_sentence(masks), [table], [Pictures("white: seen; rows are queries", shown)])


def _sentence(masks: dict[str, list[Mask]]) -> str:
    ours = masks["ours"]
    for m in ours:
        if m.becomes == "NaN":
            return (
                f"{int(m.blind.sum())} rows of {m.where} see nothing and come out as NaN: a softmax over −inf alone. "
                "From there NaN spreads to everything."
            )
    for m in ours:
        if len(m.pads) == m.seen.shape[1] and m.seen[:, m.pads].any():
            return f"Pads are seen in {m.where}: {int(m.seen[:, m.pads].any(axis=1).sum())} rows look at them."
    for m in ours:
        if m.becomes == "values":
            return f"{int(m.blind.sum())} rows of {m.where} see nothing and come out as something other than zero."
    for m, r in zip(ours, masks.get("reference", []), strict=False):
        if not np.array_equal(m.seen, r.seen):
            return (
                f"{m.where} hides other places than the reference's, {int((m.seen != r.seen).sum())} of {m.seen.size}."
            )
    blind = sum(int(m.blind.sum()) for m in ours)
    same = " All masks hide what the reference's hide." if "reference" in masks else ""
    return f"No pad is seen, and the {blind} rows that see nothing (pads) come out as zero.{same}"


# ---- the masks ----------------------------------------------------------------------------------------------------


def _gemma(subject: Subject, key: str) -> list[Mask]:
    found = []
    for side in ("left", "right"):
        token = np.arange(TOKENS)
        valid = token >= TOKENS - VALID if side == "left" else token < VALID
        ids = np.where(valid, 3 + (uniform("debug:mask", TOKENS) * 200).astype(np.int64), 0)
        inputs = {"input_ids": ids, "attention_mask": valid.astype(np.int64)}
        trace = subject.trace(key, "gemma", Case({n: Data(v[None], "none") for n, v in inputs.items()}))
        for layer in _layers(trace):
            call = trace.calls[f"layers.{layer}.self_attn", 0]
            mask, out = call.inputs["attention_mask"].values, trace.calls[f"layers.{layer}.self_attn.o_proj", 0]
            kind = "boolean" if mask.dtype == bool else "additive"
            where = f"Gemma, padded on the {side}, layer {layer}"
            found.append(Mask(where, kind, _seen(mask[0, 0]), ~valid, out.inputs["x"].values[0]))
    return found


def _layers(trace: Trace) -> list[int]:
    """The first windowed layer and the first global one."""
    n = sum(tap.endswith(".self_attn") for tap, _ in trace.calls)
    masks = [trace.calls[f"layers.{i}.self_attn", 0].inputs["attention_mask"].values for i in range(n)]
    other = next((i for i in range(n) if not np.array_equal(_seen(masks[i]), _seen(masks[0]))), 0)
    return sorted({0, other})


def _seen(mask: np.ndarray) -> np.ndarray:
    return mask if mask.dtype == bool else mask > HIDDEN


def _connectors(subject: Subject, key: str) -> list[Mask]:
    if "embeddings_processor" not in subject.file.components():
        return []
    valid = np.arange(128)[None] >= 128 - VALID
    states = hidden_states("debug:mask", 128, subject.config["transformer"]["caption_channels"])
    processor = subject.load(key, "embeddings_processor")
    states = states[: getattr(processor, "num_hidden_states", len(states))]
    kwargs = {"hidden_states": states, "attention_mask": Data(valid.astype(np.int64), "none"), "padding_side": "left"}
    trace = subject.trace(key, "embeddings_processor", Case(kwargs, method="process_hidden_states"))
    block = trace.calls["video_connector.transformer_1d_blocks.0", 0]
    mask = next(leaf.values for name, leaf in block.inputs.items() if "mask" in name and isinstance(leaf, Tensor))
    seen = np.broadcast_to(_seen(mask.reshape(-1)), (128, 128))
    none = np.zeros(128, bool)  # registers have taken the pads' places
    return [Mask("connector, registers in place of pads", "additive", seen, none, None)]


def _self_attention(subject: Subject, key: str) -> list[Mask]:
    """Strengths from 0 to 1, as conditioning gives them."""
    if "transformer" not in subject.file.components():
        return []
    tokens = FRAMES * HEIGHT * WIDTH
    strength = uniform("debug:strength", 1, tokens, tokens)
    strength[strength < 0.3] = 0.0
    case = transformer_case(subject.config, 0.725, contexts_of(subject, None)["A"])
    case.kwargs["video"].fields["attention_mask"] = Data(strength, "none")
    trace = subject.trace(key, "transformer", case)
    mask = trace.calls["transformer_blocks.0.attn1", 0].inputs["mask"].values[0, 0]
    output = trace.calls["transformer_blocks.0.attn1", 0].outputs[""].values[0]
    hidden = Mask(
        "transformer's self-attention, strengths 0–1", "additive", _seen(mask), np.zeros(tokens, bool), output
    )
    if not np.array_equal(hidden.seen, strength[0] > 0):
        return [Mask(f"{hidden.where} (not the strengths given)", "additive", hidden.seen, hidden.pads, output)]
    return [hidden]
