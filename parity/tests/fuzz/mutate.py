"""Ways in which a file or a command line is changed. Each takes a generator of random numbers and gives the same for
the same seed."""

from __future__ import annotations

import copy
import json
import math
import random
import struct
from collections.abc import Callable
from typing import Any

DEEP = 20_000
NUMBERS = [0, -1, 1, 2**31, 2**63, -(2**63), 10**12, 10**30, 10**400, 0.5, -0.0, 1e-320, 1e308, 1e39]
NUMBERS += [float("nan"), float("inf"), -float("inf")]
TEXTS = [
    "",
    " ",
    "x" * 5000,
    "../../etc/passwd",
    "/dev/zero",
    "a\nb",
    "::error::x",
    "\x1b[31mred\x1b]0;t\x07",
    "\ud800",
]
TEXTS += [
    "<script>alert(1)</script>",
    "|`*_[a](http://x)",
    "[/bold]",
    "é" * 300,
    "\u202e",
    "\0",
    "float32",
    "pass",
    "A",
]


def value(rng: random.Random) -> Any:
    """Anything that JSON can hold, and some that it cannot."""
    plain = [None, True, False, [], {}, [[]], {"": None}, [1, "a", None], "null"]
    return rng.choice([rng.choice(NUMBERS), rng.choice(TEXTS), rng.choice(plain)])


def tree(document: Any, rng: random.Random) -> Any:
    """The document with one to three of its places changed: another value or type, a key or entry less, more or twice,
    two exchanged."""
    document = copy.deepcopy(document)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        holder, key = _place(document, rng)
        if holder is None:
            return value(rng)
        _change(holder, key, rng)
    return document


def _place(document: Any, rng: random.Random) -> tuple[Any, Any]:
    """A random place: deep ones as likely as shallow ones."""
    holder, key, at, depth = None, None, document, rng.randrange(1, 9)
    while isinstance(at, (dict, list)) and at and depth:
        holder, key = at, rng.choice(list(at)) if isinstance(at, dict) else rng.randrange(len(at))
        at, depth = at[key], depth - 1
    return holder, key


def _change(holder: Any, key: Any, rng: random.Random) -> None:
    way = rng.randrange(8)
    if way == 0:
        del holder[key]
    elif way == 1 and isinstance(holder, dict):
        holder[rng.choice([*TEXTS[:6], "extra", "schema"])] = value(rng)
    elif way == 1:
        holder.insert(key, copy.deepcopy(holder[key]))
    elif way == 2:
        other = rng.choice(list(holder)) if isinstance(holder, dict) else rng.randrange(len(holder))
        holder[key], holder[other] = holder[other], holder[key]
    elif way == 3 and isinstance(holder[key], (int, float)) and not isinstance(holder[key], bool):
        holder[key] = rng.choice([-holder[key], holder[key] * 1000, holder[key] + 1, str(holder[key]), [holder[key]]])
    elif way == 4 and isinstance(holder[key], str):
        holder[key] = rng.choice([holder[key][:-1], holder[key].upper(), holder[key] + "\n::error::", 3, [holder[key]]])
    elif way == 5 and isinstance(holder, dict):
        holder[f"{key}_"] = holder.pop(key)
    else:
        holder[key] = value(rng)


def text(document: Any, rng: random.Random) -> bytes:
    """JSON of a changed document, and sometimes with what only a text can have: a nest, a key twice, NaN, cut short,
    another encoding."""
    made = json.dumps(tree(document, rng), indent=rng.choice((None, 1)))
    way = rng.randrange(12)
    if way == 0:
        nest = rng.choice(("[", '{"a":'))
        at = rng.choice([i for i, c in enumerate(made) if c == ":"] or [0]) + 1
        made = made[:at] + nest * DEEP + made[at:]
    elif way == 1 and made.startswith("{"):
        key = rng.choice(list(document)) if isinstance(document, dict) and document else "a"
        made = f"{made[:-1]}, {json.dumps(key)}: {rng.choice(('1', 'null', '[]', '9' * 5000))}}}"
    elif way == 2:
        return made.encode(rng.choice(("utf-16", "utf-8-sig", "utf-32")), "replace")
    elif way == 3:
        return raw(made.encode("utf-8", "replace"), rng)
    return made.encode("utf-8", "surrogatepass")


def raw(data: bytes, rng: random.Random, head: int = 0) -> bytes:
    """Bytes changed: some exchanged (within ``head`` mostly), cut, doubled, spliced, emptied."""
    way, size = rng.randrange(8), len(data)
    if not size:
        return b"\0"
    if way <= 3:
        changed = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 4, 16))):
            at = rng.randrange(min(head, size) if head and rng.random() < 0.7 else size)
            changed[at] = rng.choice((0, 255, 127, 128, rng.randrange(256), changed[at] ^ (1 << rng.randrange(8))))
        return bytes(changed)
    first, second = sorted((rng.randrange(size), rng.randrange(size)))
    if way == 4:
        return data[:first]
    if way == 5:
        return data[:first] + data[second:]
    if way == 6:
        return data[:second] + data[first:]
    return rng.choice((b"", data + bytes(rng.randrange(1, 100)), data[::-1], b"\0" * min(size, 4096)))


def safetensors(data: bytes, rng: random.Random, inner: str = "") -> bytes:
    """A safetensors file with another header, whose length is right, or with other bytes. inner: a text of the metadata
    that is JSON itself."""
    if rng.random() < 0.2:
        return raw(data, rng, head=400)
    start = 8 + struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:start])
    meta = header.get("__metadata__") or {}
    if inner in meta and rng.random() < 0.7:
        meta[inner] = text(json.loads(meta[inner]), rng).decode("utf-8", "replace")
        made = json.dumps(header).encode("utf-8", "replace")
    elif rng.random() < 0.5:
        made = _entry(header, rng)
    else:
        made = text(header, rng)
    length = len(made) if rng.random() < 0.95 else rng.choice((0, 1, len(made) + 1, 2**40, 2**63, 2**64 - 1))
    return struct.pack("<Q", length) + made + data[start:]


def _entry(header: dict[str, Any], rng: random.Random) -> bytes:
    """One tensor that says something else of itself."""
    name = rng.choice([key for key in header if key != "__metadata__"] or ["a"])
    entry = copy.deepcopy(header.get(name) or {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]})
    change: list[Callable[[], Any]] = [
        lambda: entry.update(dtype=rng.choice(("F64", "BF16", "F8_E4M3", "I8", "C64", "f32", 3))),
        lambda: entry.update(shape=[*entry["shape"], rng.choice((0, 1, 2, -1, 10**12, 2**63))]),
        lambda: entry.update(shape=entry["shape"][::-1]),
        lambda: entry.update(data_offsets=[n + rng.choice((-1, 1, 4, 2**62)) for n in entry["data_offsets"]]),
        lambda: entry.update(data_offsets=entry["data_offsets"][::-1]),
    ]
    rng.choice(change)()
    header[name] = entry
    return json.dumps(header).encode()


def numbers(data: bytes, rng: random.Random) -> bytes:
    """A safetensors file in which one array holds other numbers: one of them or all, by far; NaN and ∞ among them."""
    start = 8 + struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:start])
    letters = {"F32": "f", "F64": "d", "I32": "i", "I64": "q"}
    entry = rng.choice([e for e in header.values() if e.get("dtype") in letters and math.prod(e["shape"])])
    (first, last), letter = entry["data_offsets"], letters[entry["dtype"]]
    count = math.prod(entry["shape"])
    values = list(struct.unpack(f"<{count}{letter}", data[start + first : start + last]))
    at, most, way = rng.randrange(count), max(map(abs, values)), rng.randrange(5)
    if way < 2 and letter in "fd":
        values[at] = rng.choice((float("nan"), float("inf"), -float("inf")))
    elif way == 2:
        values[at] += 10 * most + 1
    elif way == 3:
        values = [value * 3 + 1 for value in values]
    else:
        values = [most + 1] * count
    return data[: start + first] + struct.pack(f"<{count}{letter}", *values) + data[start + last :]


WORDS = [
    "nan",
    "inf",
    "-1",
    "0",
    "1e400",
    "9" * 40,
    "9" * 5000,
    "-" + "9" * 5000,
    "0." + "0" * 5000 + "1",
    "",
    "x" * 300,
]
WORDS += ["~nosuchuser/x", "~", "/dev/null", "/dev/zero", "/", ".", "..", "folder", "fifo", "loop", "gone", "é\udcff"]
WORDS += ["a\nb", "a\n::error::x", "\x1b[31m", "\x1b]0;t\x07", "\x9b31m", "a\0b", "\ud800", "\u202e", "\r", "\u2028"]
WORDS += [
    "--",
    "-",
    "[/x]",
    "*",
    "[",
    "true",
    "None",
    "1,2",
    "0x10",
    "１",
    "٣",
    "1_000",
    "--prompt=",
    "--seed=\x1b",
    "@x",
]
WORDS += ["x/" * 3000, "{}", "%s", "%(prog)s", "$HOME", "http://127.0.0.1/x", "owner/name", "owner/name/file", "-h\n"]


def words(line: list[str], rng: random.Random) -> list[str]:
    """A command line with words changed, lost, twice, or new."""
    line = list(line)
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(line)) if line else 0
        way = rng.randrange(5)
        if way == 0 and line:
            del line[at]
        elif way == 1 and line:
            line.insert(at, line[at])
        elif way == 2:
            line.insert(at, rng.choice(WORDS))
        elif line:
            line[at] = rng.choice(WORDS)
    return line
