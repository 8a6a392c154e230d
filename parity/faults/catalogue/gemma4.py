"""Faults of Gemma 4, most of them Gemma 3's rules kept, and of its tokens."""

from __future__ import annotations

import functools

from ..planting import Fault

_tokens = functools.partial(Fault, stage="tokenizer", config="any", case="gemma4")
_gemma4 = functools.partial(Fault, stage="gemma4", config="tiny-gemma4")
_FILE, _SHARED = "text/gemma4.py", "text/gemma3.py"
_ATTENTION = "layers.0.self_attn"

GEMMA4 = (
    # ---- tokens
    _tokens(
        "T50",
        "no BOS, since the tokenizer adds none",
        "text/tokenizer.py",
        "tokens = prompt if prompt.ids[:1] == [BOS] else",
        "tokens = prompt if prompt.ids[:1] == [BOS] or True else",
        "plain.1024",
        cause="skipped term",
    ),
    _tokens(
        "T51",
        "a second BOS before the one that the prompt has",
        "text/tokenizer.py",
        "tokens = prompt if prompt.ids[:1] == [BOS] else",
        "tokens = prompt if prompt.ids[:1] == [-1] else",
        "special.1024",
        cause="position/offset",
    ),
    _tokens(
        "T52",
        "the head of a long prompt cut off, BOS with it",
        "text/tokenizer.py",
        "tokens.truncate(self.max_length)",
        'tokens.truncate(self.max_length, direction="left")',
        "long.1024",
        cause="padding side",
    ),
    _tokens(
        "T53",
        "padded with EOS",
        "text/tokenizer.py",
        "BOS, PAD = 2, 0",
        "BOS, PAD = 2, 1",
        "plain.1024",
        cause="wrong constant",
    ),
    _tokens(
        "T71",
        "padding on the right",
        "text/tokenizer.py",
        "tokens.pad(self.max_length, direction=self.padding_side,",
        'tokens.pad(self.max_length, direction="right",',
        "plain.1024",
        cause="padding side",
    ),
    # ---- norms
    _gemma4(
        "T54",
        "RMSNorm by 1 + w for w",
        _FILE,
        'weight = self.weight.astype(mx.float32) if "weight" in self else None',
        'weight = 1 + self.weight.astype(mx.float32) if "weight" in self else None',
        "layers.0.input_layernorm",
        cause="wrong constant",
    ),
    _gemma4(
        "T69",
        "eps 1e-5 for the config's",
        _FILE,
        "        self.eps = eps\n",
        "        self.eps = 1e-5\n",
        "layers.0.input_layernorm",
        cause="eps",
    ),
    _gemma4(
        "T65",
        "the final norm on every state",
        _SHARED,
        "        return tuple(states)\n",
        "        return tuple(mx.fast.rms_norm(s, self.norm.weight, 1e-6) for s in states[:-1]) + (states[-1],)\n",
        "Gemma4UnifiedTextModel.0",
        cause="missing normalisation",
    ),
    _gemma4(
        "T72",
        "no final norm on the last state",
        _SHARED,
        "        states[-1] = self.norm(states[-1])\n",
        "        self.norm(states[-1])\n",
        "Gemma4UnifiedTextModel.7",
        cause="missing normalisation",
    ),
    # ---- attention
    _gemma4(
        "T55",
        "scores divided by √head_dim",
        _FILE,
        "attend(q, k, v, 1.0, attention_mask)",
        "attend(q, k, v, self.head_dim**-0.5, attention_mask)",
        f"{_ATTENTION}.o_proj:x",
        cause="wrong constant",
        known="T17",
    ),
    _gemma4(
        "T56",
        "values not normalised",
        _FILE,
        "        v = self.v_norm(v)\n",
        "        self.v_norm(v)\n",
        f"{_ATTENTION}.o_proj:x",
        cause="missing normalisation",
        known="T17",
    ),
    _gemma4(
        "T57",
        "global values from keys that have been normalised and turned",
        _FILE,
        "        v = self.v_norm(v)\n",
        "        v = self.v_norm(k if self.v_proj is None else v)\n",
        "layers.2.self_attn.v_norm:hidden_states",
        cause="wrong input",
        known="T17",
    ),
    _gemma4(
        "T58",
        "values normalised with the keys' weight",
        _FILE,
        "        v = self.v_norm(v)\n",
        "        v = self.v_norm(v) * self.k_norm.weight\n",
        f"{_ATTENTION}.o_proj:x",
        cause="wrong weights",
    ),
    _gemma4(
        "T73",
        "values turned as the keys are",
        _FILE,
        "        v = self.v_norm(v)\n",
        "        v = self.v_norm(v)\n"
        "        cos, sin = (mx.expand_dims(table, 2) for table in position_embeddings)\n"
        "        v = v * cos + rotate_half(v) * sin\n",
        f"{_ATTENTION}.o_proj:x",
        cause="position/offset",
    ),
    _gemma4(
        "T63",
        "a window that is one longer",
        _SHARED,
        "seen & (behind < sliding_window)",
        "seen & (behind <= sliding_window)",
        "layers.0:attention_mask",
        cause="mask",
    ),
    # ---- layers
    _gemma4(
        "T59",
        "no scalar of the layer",
        _FILE,
        "position_embeddings, attention_mask) * self.layer_scalar",
        "position_embeddings, attention_mask)",
        "layers.0",
        cause="skipped term",
        known="T17",
    ),
    _gemma4(
        "T60",
        "the layer's scalar without its residual",
        _FILE,
        "        return super().__call__(hidden_states, position_embeddings, attention_mask) * self.layer_scalar\n",
        "        changed = super().__call__(hidden_states, position_embeddings, attention_mask) - hidden_states\n"
        "        return hidden_states + changed * self.layer_scalar\n",
        "layers.0",
        cause="wrong input",
    ),
    _gemma4(
        "T70",
        "every sixth layer taken for a global one",
        _FILE,
        "[Gemma4UnifiedTextDecoderLayer(config, kind) for kind in config.layer_types]",
        "[\n"
        '            Gemma4UnifiedTextDecoderLayer(config, "sliding_attention" if (i + 1) % 6 else "full_attention")\n'
        "            for i in range(config.num_hidden_layers)\n"
        "        ]",
        "layers.2.self_attn",
        cause="other network",
        loads=True,
    ),
    # ---- rotary tables
    _gemma4(
        "T61",
        "exponents divided by the pairs that turn, not by all",
        _FILE,
        "frequencies = _inverse_frequencies(base, 1.0, width)",
        "frequencies = np.resize(_inverse_frequencies(base, 1.0, 2 * turning), width // 2)",
        "rotary_emb",
        cause="wrong constant",
        known="T17",
    ),
    _gemma4(
        "T62",
        "every pair of a global head turns",
        _FILE,
        "return np.where(np.arange(width // 2) < turning, frequencies, np.float32(0))",
        "return frequencies",
        "rotary_emb",
        cause="wrong constant",
    ),
    _gemma4(
        "T67",
        "one rotary base for all layers",
        "config/gemma4.py",
        "said = self.rope_parameters[layer_type]",
        'said = self.rope_parameters[layer_type] | {"rope_theta": self.rope_parameters[_KINDS[0]]["rope_theta"]}',
        "rotary_emb",
        cause="wrong constant",
    ),
    _gemma4(
        "T66",
        "positions that leave out the pads",
        _SHARED,
        "position_ids = mx.arange(input_ids.shape[1])[None]",
        "position_ids = mx.maximum(mx.cumsum(attention_mask, axis=1) - 1, 0)",
        "rotary_emb:position_ids",
        cause="position/offset",
    ),
    # ---- embedding
    _gemma4(
        "T64",
        "√hidden not rounded to bfloat16 before the multiplication",
        _SHARED,
        "        return rows * mx.array(self.weight.shape[1] ** 0.5, mx.float32).astype(rows.dtype)\n",
        "        return (rows.astype(mx.float32) * self.weight.shape[1] ** 0.5).astype(rows.dtype)\n",
        "embed_tokens",
        dtype="bfloat16",
        cause="precision",
    ),
    _gemma4(
        "T68",
        "what stands for an image embedded as itself",
        _FILE,
        "input_ids = mx.where(input_ids == token, PAD, input_ids)",
        "input_ids = mx.where(input_ids == token, token, input_ids)",
        "embed_tokens:input_ids",
        cause="wrong input",
    ),
)
