"""Faults of LoRA fusion."""

from __future__ import annotations

from ..planting import Fault


def _fault(
    id: str, fault: str, old: str, new: str, tap: str, case: str = "bfloat16", file: str = "loading/lora.py"
) -> Fault:
    cause, known = _CLASSES[id]
    return Fault(id, fault, file, old, new, tap, config="any", case=case, stage="lora", cause=cause, known=known)


# Id → the class of its cause, and its id in the list of faults that ports shipped.
_CLASSES = {
    "L01a": ("wrong constant", "L06"),
    "L01e": ("wrong constant", "L06"),
    "L01c": ("precision", ""),
    "L01d": ("precision", ""),
    "L02a": ("swapped", "L05"),
    "L02b": ("axis order", ""),
    "L02c": ("wrong weights", "L03"),
    "L03a": ("skipped term", "L04"),
    "L03b": ("precision", ""),
    "L03c": ("precision", ""),
    "L03d": ("precision", ""),
    "L09a": ("precision", ""),
    "L09b": ("precision", ""),
    "L09c": ("precision", ""),
    "L09d": ("wrong input", "L09"),
    "L09e": ("precision", "L09"),
}


_PRODUCT = "_scaled(b, strength) @ a)"
_FIRST = "transformer_blocks.0.attn1.to_q.weight"
LORA = (
    _fault("L01a", "strength applied twice", "* strength).", "* strength * strength).", f"weaker.bfloat16.{_FIRST}"),
    _fault("L01e", "strength dropped", "* strength).", "* 1.0).", f"weaker.bfloat16.{_FIRST}"),
    _fault("L01c", "strength on A", _PRODUCT, "b @ _scaled(a, strength))", f"weaker.bfloat16.{_FIRST}"),
    _fault(
        "L01d",
        "strength rounded to bfloat16",
        "(b.astype(mx.float32) * strength).astype(b.dtype)",
        "b * strength",
        f"weaker.bfloat16.{_FIRST}",
    ),
    _fault("L02a", "A and B in the wrong order", _PRODUCT, "a @ _scaled(b, strength))", "full.bfloat16"),
    _fault(
        "L02b",
        "the product transposed where it is square",
        f"[({_PRODUCT}.astype(dtype) for",
        f"[({_PRODUCT}.astype(dtype).T if len(b) == a.shape[1] else ({_PRODUCT}.astype(dtype) for",
        f"full.bfloat16.{_FIRST}",
    ),
    _fault("L02c", "prefix kept: nothing matches", "name = name.removeprefix(wrapper)", "break", "full.bfloat16"),
    _fault(
        "L03a",
        "only the first LoRA",
        "for lora in loras\n        if",
        "for lora in loras[:1]\n        if",
        f"two.bfloat16.{_FIRST}",
        "several",
    ),
    _fault(
        "L03b",
        "the sum rounded after each LoRA",
        "(delta.astype(mx.float32) for delta in deltas)",
        "deltas",
        "three.bfloat16.transformer_blocks.0.attn1",
        "several",
    ),
    _fault(
        "L03c",
        "the product B·A not rounded to the file's dtype",
        _PRODUCT,
        "_scaled(b, strength).astype(mx.float32) @ a.astype(mx.float32))",
        f"full.float32.{_FIRST}",
        "float32",
    ),
    _fault(
        "L03d",
        "the change rounded to bfloat16 where float32 is asked for",
        "mx.bfloat16 if dtype == FP8 else dtype",
        "mx.bfloat16",
        f"full.float32.{_FIRST}",
        "float32",
    ),
    # ---- float8
    _fault(
        "L09a",
        "wrong layers in float8: the gates as well",
        '"ff.net.2")',
        '"ff.net.2", ".to_gate_logits")',
        "none.bfloat16.transformer_blocks.0.attn1.to_gate_logits.weight",
        "fp8-cast",
        "loading/quantization.py",
    ),
    _fault(
        "L09b",
        "wrong layers in float8: not the output of the attention",
        '".to_out.0", ',
        "",
        "none.bfloat16.transformer_blocks.0.attn1.to_out.0.weight",
        "fp8-cast",
        "loading/quantization.py",
    ),
    _fault(
        "L09c",
        "biases not in float8",
        'leaf in ("weight", "bias")',
        'leaf == "weight"',
        "none.bfloat16.transformer_blocks.0.attn1.to_q.bias",
        "fp8-cast",
        "loading/quantization.py",
    ),
    _fault(
        "L09d",
        "the LoRA added to the bytes of float8 weights, not to their values",
        "delta + from_fp8(weight, mx.bfloat16)",
        "delta + weight",
        f"weaker.bfloat16.{_FIRST}",
        "fp8-cast",
    ),
    _fault(
        "L09e",
        "the LoRA added before the weight is float8",
        "fuse(loras, name, array if in_fp8 else to_fp8(array), FP8)",
        "to_fp8(fuse(loras, name, array, mx.bfloat16))",
        f"weaker.bfloat16.{_FIRST}",
        "fp8-cast",
        "loading/weights.py",
    ),
    Fault(
        "L09f",
        "the bias left out of a float8 layer",
        "loading/quantization.py",
        'product(x, weight, from_fp8(self.bias, x.dtype) if "bias" in self else None)',
        "product(x, weight)",
        "transformer_blocks.0.attn1.to_v",
        stage="transformer_fp8",
        case="masks",
        cause="skipped term",
    ),
)
