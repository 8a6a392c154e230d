"""The view that finds the first NaN or infinity, in every module from the prompt to the audio."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ltx2_mlx.text.tokenizer import LTXVGemmaTokenizer

from ..declare.inputs import DISTILLED_SIGMAS
from ..declare.model import Case, Data
from ..tap.trace import Tensor, Trace
from .finding import Finding, Lines, Table
from .subject import AUDIO, FRAMES, HEIGHT, WIDTH, Contexts, Subject, audio_too, context, latent, transformer_case
from .velocity import sigmas_of

PROMPT = "A red fox walks through fresh snow; wind hums."
TOKENS = 128  # the prompt is padded to


@dataclass(frozen=True)
class Stretch:
    """One stage of the way. bad: (place, NaNs, infinities, of how many) of the first tensor that is not finite."""

    name: str
    tensors: int
    largest: float
    bad: tuple[str, int, int, int] | None


def look(subject: Subject, args: argparse.Namespace) -> Finding:
    ways = {key: list(_way(subject, key, args.sigmas or [*DISTILLED_SIGMAS, 0.0])) for key in subject.sides}
    rows = []
    for sides in zip(*ways.values(), strict=True):
        cells = [cell for s in sides for cell in (s.largest, _said(s.bad))]
        rows.append((sides[0].name, sides[0].tensors, *cells))
    columns = [f"{what} {key}" for key in ways for what in ("largest |value|", "first not finite")]
    series = {
        key: [max(s.largest, 1e-9) if np.isfinite(s.largest) else np.nan for s in way] for key, way in ways.items()
    }
    chart = Lines("largest |value| by stage", "|value|", [row[0] for row in rows], series, True)
    return Finding(_sentence(ways), [Table("the way", ("stage", "tensors", *columns), rows)], [chart])


def _said(bad: tuple[str, int, int, int] | None) -> str:
    return f"{bad[0]}: {bad[1]} NaN, {bad[2]} infinite of {bad[3]}" if bad else "–"


def _sentence(ways: dict[str, list[Stretch]]) -> str:
    for i, stretch in enumerate(ways["ours"]):
        if stretch.bad:
            place, nans, infinite, size = stretch.bad
            what = f"{nans} NaN" if nans else f"{infinite} infinite"
            other = ways.get("reference")
            same = (
                "" if other is None else "; the reference has them too" if other[i].bad else "; the reference has none"
            )
            return (
                f"The first values that are not finite appear in {stretch.name}, at {place} ({what} of {size}){same}."
            )
    return f"Every value of {sum(s.tensors for s in ways['ours'])} tensors is finite, from the prompt to the end."


def _way(subject: Subject, key: str, sigmas: list[float]) -> Iterator[Stretch]:
    """Each stage goes on from what the one before gave; parts that the file does not hold are left out."""
    parts = subject.file.components()
    contexts: Contexts | None = None
    latents: Contexts | None = None
    if "transformer" in parts:
        contexts = (context(subject.config, False, "A"), context(subject.config, True, "A"))
    if "embeddings_processor" in parts:
        ids, mask = (np.array(x).astype(np.int64) for x in LTXVGemmaTokenizer(subject.gemma, TOKENS).encode(PROMPT))
        inputs = {"input_ids": Data(ids, "none"), "attention_mask": Data(mask, "none")}
        trace = subject.trace(key, "gemma", Case(inputs))
        yield _stretch("Gemma", trace)
        states = _values(trace, "Gemma3TextModel")
        kwargs = {"hidden_states": tuple(map(Data, states)), "attention_mask": inputs["attention_mask"]}
        case = Case({**kwargs, "padding_side": "left"}, method="process_hidden_states")
        trace = subject.trace(key, "embeddings_processor", case)
        yield _stretch("the connectors", trace)
        video, audio = _values(trace, "process_hidden_states")[:2]
        contexts = (video, audio)
    if "transformer" in parts and contexts:
        latents = (latent(subject.config, False), latent(subject.config, True))
        for i, sigma in enumerate(sigmas[:-1]):
            case = transformer_case(subject.config, sigma, contexts, latents)
            trace = subject.trace(key, "transformer", case)
            yield _stretch(f"the transformer, step {i} (σ {sigma:g})", trace)
            latents = _stepped(subject, key, latents, _values(trace, "X0Model"), sigmas, i)
    yield from _decoded(subject, key, latents)


def _decoded(subject: Subject, key: str, latents: tuple[np.ndarray, np.ndarray] | None) -> Iterator[Stretch]:
    parts = subject.file.components()
    if "video_decoder" in parts:
        channels = subject.config["vae"]["latent_channels"]
        cells = np.ones((1, channels, 2, 2, 3))
        if latents and latents[0].shape[-1] == channels:
            cells = latents[0].transpose(0, 2, 1).reshape(1, -1, FRAMES, HEIGHT, WIDTH)
        small = cells[:, :, :2, :2, :3].astype(np.float32)
        yield _stretch("the video decoder", subject.trace(key, "video_decoder", Case({"sample": Data(small)})))
    if "audio_decoder" in parts and "vocoder" in parts:
        tokens = latents[1] if latents and audio_too(subject.config) else np.ones((1, AUDIO, 128), np.float32)
        sample = tokens[:, :3].reshape(1, 3, 8, 16).transpose(0, 2, 1, 3)
        trace = subject.trace(key, "audio_decoder", Case({"sample": Data(np.ascontiguousarray(sample))}))
        yield _stretch("the audio decoder", trace)
        argument = "mel_spec" if "bwe" in subject.config["vocoder"] else "x"
        mel = _values(trace, "AudioDecoder")[0]
        yield _stretch("the vocoder", subject.trace(key, "vocoder", Case({argument: Data(mel)})))


def _stepped(
    subject: Subject, key: str, latents: Contexts, denoised: list[np.ndarray], sigmas: list[float], i: int
) -> tuple[np.ndarray, np.ndarray]:
    side, stepper = subject.sides[key], subject.at(key, "EulerDiffusionStep")()
    schedule = sigmas_of(subject, key, np.array(sigmas, np.float32))
    video, audio = latents
    after = [video, audio]
    for k, x0 in enumerate(denoised):
        pair = [side.from_numpy(value, side.dtype(subject.dtype)) for value in (latents[k], x0)]
        after[k] = subject.numpy(key, stepper.step(*pair, schedule, i))
    return after[0], after[1]


def _values(trace: Trace, tap: str) -> list[np.ndarray]:
    """The arrays that a call gave, in order."""
    return [leaf.values for leaf in trace.calls[tap, 0].outputs.values() if isinstance(leaf, Tensor)]


def _stretch(name: str, trace: Trace) -> Stretch:
    count, largest, bad = 0, 0.0, None
    for kind, tap, index in trace.events:
        call = trace.calls[tap, index]
        for leaf_name, leaf in (call.inputs if kind == "in" else call.outputs).items():
            # Masks hold −∞ by right.
            if not isinstance(leaf, Tensor) or leaf.values.dtype.kind != "f" or "mask" in f"{tap}.{leaf_name}":
                continue
            count += 1
            x = leaf.values
            finite = np.isfinite(x)
            if kind == "out" and "freqs" not in tap:  # angles of thousands, by right
                largest = max(largest, float(np.abs(x[finite]).max(initial=0.0)))
            if bad is None and not finite.all():
                place = f"{tap}:{leaf_name}" if kind == "in" else tap
                bad = (place, int(np.isnan(x).sum()), int(np.isinf(x).sum()), x.size)
    return Stretch(name, count, largest, bad)
