"""What a difference looks like, and what that points to: a first guess from the numbers of one row."""

from __future__ import annotations

from typing import Any

from .axes import names

Record = dict[str, Any]

_BY_REASON = {
    "ours never calls this": "A module or branch is left out here, or it is called under another name.",
    "ours calls this, the reference does not": "A module or branch that the reference does not take here.",
    "NaN": "Division by zero or a root of a negative number: a missing eps, or a row whose mask hides everything.",
    "Inf": "Overflow: half precision where the reference has float32, or a missing normalisation.",
    "constant in the reference": "The case is blind here: give it inputs that vary.",
    "not its oracle": "The oracle does not compute what the reference does: the harness is at fault, not ours.",
    "the reference does not repeat itself": "The reference is not deterministic here, so nothing can be judged.",
    "masked on one side only": "Another mask: its direction, its padding side, or its window.",
    "ours returns nothing": "A result is missing from what this call returns.",
}


def likely(row: Record, layout: str) -> list[str]:
    """At most three sentences, the likeliest first. layout: of the row's stage."""
    found = [text for reason, text in _BY_REASON.items() if reason in row["why"]]
    found = found or _by_kind(row) or [*_by_place(row, layout), *_by_shape_of_error(row)]
    return found[:3] or ["Every element is off and nothing stands out: compare the arithmetic line by line."]


def _by_kind(row: Record) -> list[str]:
    why = row["why"]
    if why.startswith("shape"):
        ours, _, theirs = why.removeprefix("shape ").partition(", the reference has ")
        same = sorted(ours.strip("()").split(", ")) == sorted(theirs.strip("()").split(", "))
        return [
            "The same sizes in another order: axes swapped, or channels first for channels last."
            if same
            else "Another size: padding, a stride, or one frame or token too many or too few."
        ]
    if why.startswith("dtype"):
        return ["A cast is missing or one too many; a float32 table promotes half precision activations."]
    if row["verdict"] == "invalid":
        return ["Ours raises or returns something else than an array here: the message says what."]
    if row["rel_l2"] is None:
        return ["A constant that differs: a default where the checkpoint's metadata has a value, or another argument."]
    return []


def _by_place(row: Record, layout: str) -> list[str]:
    """From where along an axis the error is."""
    profile = row.get("profile")
    found = []
    for axis in profile["axes"] if profile else ():
        name, size = names(layout, len(row["shape"]))[axis["axis"]], axis["size"]
        squares = [value * value if value is not None else 0.0 for value in axis["ours"]]
        total, bins = sum(squares), len(squares)
        if bins < 3 or not total:
            continue
        hit = [i for i, value in enumerate(squares) if value > 0.02 * max(squares)]
        if len(hit) <= max(1, bins // 4) and sum(squares[i] for i in hit) > 0.9 * total:
            found.append(f"Only {_where(hit, bins, size, name)}: {_meaning(hit, bins, name)}")
        elif _grows(squares):
            found.append(f"The error grows along the {name} axis: positions, offsets, or a sum that accumulates.")
    return found


def _where(hit: list[int], bins: int, size: int, name: str) -> str:
    if bins == size and len(hit) <= 3:
        return f"at {name} {', '.join(map(str, hit))} of {size}"
    if bins == size:
        return f"at {len(hit)} of {size} {name}s"
    return f"in {len(hit)} of {bins} bins of the {name} axis ({size})"


def _meaning(hit: list[int], bins: int, name: str) -> str:
    if set(hit) <= {0, bins - 1}:
        return "padding, a causal start, or what is cut off at the end."
    if name == "channel":
        return "one row of a table or a slice of channels taken from the wrong place."
    return "a mask, an index or an offset."


def _grows(squares: list[float]) -> bool:
    """Whether quarters of an axis are ever worse, by at least a factor of 10 over all."""
    quarter = len(squares) // 4
    if not quarter:
        return False
    means = [sum(squares[i * quarter : (i + 1) * quarter]) for i in range(4)]
    return means[0] > 0 and means == sorted(means) and means[3] > 100 * means[0]


def _by_shape_of_error(row: Record) -> list[str]:
    """From the similarity of the whole tensor to the reference's."""
    r, slope, spread, error = (row[key] for key in ("pearson", "slope", "std_ratio", "rel_l2"))
    if r is None or slope is None or not row["std_ref"]:
        return []
    straight, offset = 1 - abs(r) < 1e-6, abs(row["offset"]) / row["std_ref"]
    if straight and r < 0:
        return ["The sign is reversed."]
    if straight and abs(slope - 1) > 3e-5:
        return [f"A factor of {slope:.4g}: a scale, gate or normalisation missing, doubled or of another size."]
    if straight and offset > 3e-5:
        return [f"An added constant ({row['offset']:.3g}): a shift or bias missing, or a different origin."]
    if error < 3e-5:
        return ["Small and everywhere: an eps, a constant rounded on its way, or another order of operations."]
    if error < 6e-4:
        return ["Of the size of TF32 or float16 rounding: a multiplication or a cast in lower precision, or an eps."]
    if error < 8e-3:
        return ["Of the size of bfloat16 rounding: something is cast on its way; else an approximation of a function."]
    if abs(r) < 0.3 and 0.9 < spread < 1.1:
        return ["As large as the reference's values and unrelated to them: another order (axes, halves), or weights."]
    if abs(r) < 0.3:
        return ["Unrelated to the reference: other operands, such as shift for scale, or another tensor's weights."]
    if not 0.9 < spread < 1.1:
        return [f"Alike, but {spread:.3g} times as wide: a normalisation, scale or residual missing or counted twice."]
    return ["Alike and as wide, but partly wrong: a term, mask, rotation or activation that differs."]
