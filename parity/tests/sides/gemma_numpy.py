"""Gemma 3 in plain NumPy, beside a trace: what a port in any language does. See ``parity/sides/README.md``.

python gemma_numpy.py TRACE.json OUTPUTS.safetensors
"""

import json
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file


def load_bfloat16(path):
    """Name → float32: NumPy has no bfloat16, whose bits are the upper half of a float32's."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    for name, entry in json.loads(data[8:start]).items():
        if name != "__metadata__":
            first, last = (start + offset for offset in entry["data_offsets"])
            bits = np.frombuffer(data[first:last], np.uint16).astype(np.uint32) << 16
            yield name, bits.view(np.float32).reshape(entry["shape"])


trace = Path(sys.argv[1])
cell = next(cell for cell in json.loads(trace.read_text())["cells"] if cell["stage"] == "gemma")
case = next(case for case in cell["cases"] if case["dtype"] == "float32")
shard, given = load_file(trace.with_suffix("") / case["shard"]), case["inputs"]
ids, keep = (
    shard[given[f"kwargs.{name}.values"]["data"]].reshape(given[f"kwargs.{name}.values"]["shape"])
    for name in ("input_ids", "attention_mask")
)
folder = trace.with_suffix("") / "weights" / cell["components"]["gemma"]
config = json.loads((folder / "config.json").read_text())["text_config"]
weights = {k: v for file in folder.glob("*.safetensors") for k, v in load_bfloat16(file)}
heads, dim, tokens = config["num_attention_heads"], config["head_dim"], ids.shape[1]
outputs = {}


def out(tap, x):
    outputs[f"gemma/{cell['config']}/{case['case']}/{tap}"] = np.ascontiguousarray(x, np.float32)
    return x


def weight(name):
    return weights[f"language_model.model.{name}.weight"]


def norm(name, x):
    x = x / np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(config["rms_norm_eps"]))
    return out(name, x * (1 + weight(name)))


def linear(name, x):
    return out(name, x @ weight(name).T)


def split(x):
    return x.reshape(*x.shape[:2], -1, dim).swapaxes(1, 2)


x = out("embed_tokens", weight("embed_tokens")[ids] * np.sqrt(np.float32(config["hidden_size"])))
for i in range(config["num_hidden_layers"]):
    at, whole = f"layers.{i}", (i + 1) % config["sliding_window_pattern"] == 0
    base, slow = (
        (config["rope_theta"], config["rope_scaling"]["factor"]) if whole else (config["rope_local_base_freq"], 1)
    )
    angles = np.outer(np.arange(tokens), base ** -(np.arange(0, dim, 2) / dim) / slow)
    cos, sin = (np.tile(f(angles), 2).astype(np.float32) for f in (np.cos, np.sin))
    y = norm(f"{at}.input_layernorm", x)
    q, k, v = (split(linear(f"{at}.self_attn.{name}_proj", y)) for name in "qkv")
    q, k = (norm(f"{at}.self_attn.{name}_norm", z) for name, z in (("q", q), ("k", k)))
    q, k = (z * cos + np.concatenate([-z[..., dim // 2 :], z[..., : dim // 2]], -1) * sin for z in (q, k))
    k, v = (np.repeat(z, heads // config["num_key_value_heads"], 1) for z in (k, v))
    back = np.arange(tokens)[:, None] - np.arange(tokens)
    sees = (back >= 0) & (whole | (back < config["sliding_window"])) & (keep[:, None, None] > 0)
    scores = np.where(sees, q @ k.swapaxes(2, 3) * np.float32(config["query_pre_attn_scalar"] ** -0.5), -1e30)
    shares = np.exp(scores - scores.max(-1, keepdims=True)) * sees
    y = (shares / np.maximum(shares.sum(-1, keepdims=True), 1e-30)) @ v
    y = linear(f"{at}.self_attn.o_proj", y.swapaxes(1, 2).reshape(*ids.shape, -1))
    x = x + norm(f"{at}.post_attention_layernorm", y)
    y = norm(f"{at}.pre_feedforward_layernorm", x)
    gate, up = (linear(f"{at}.mlp.{name}_proj", y) for name in ("gate", "up"))
    gate = 0.5 * gate * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)))
    y = linear(f"{at}.mlp.down_proj", (gate * up).astype(np.float32))
    x = out(at, x + norm(f"{at}.post_feedforward_layernorm", out(f"{at}.mlp", y)))
norm("norm", x)
save_file(outputs, sys.argv[2], {"lane": "C"})
