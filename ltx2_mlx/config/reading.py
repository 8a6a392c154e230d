"""Reading JSON and a section of the metadata, strictly: every value has its type and its range."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from ..errors import CheckpointError, ConfigError, LTX2Error


@dataclass(frozen=True)
class Within:
    """The range of a number, ends included. layers: each of so many has tensors of its own in the file."""

    low: float
    high: float
    layers: bool = False


# The types of numbers in configs. The largest network that was released has 48 layers and a width of 4096.
Size = Annotated[int, Within(1, 1 << 20)]
Layers = Annotated[int, Within(1, 1024, layers=True)]
Rate = Annotated[int, Within(1, 10_000_000)]
Epsilon = Annotated[float, Within(1e-20, 0.1)]
Base = Annotated[float, Within(1.0, 1e12)]
Factor = Annotated[float, Within(1e-6, 1e6)]
_PLAIN = {int: Within(1, 1 << 20), float: Within(1e-20, 1e12)}
_LONGEST = 256  # entries of a list


# ---- JSON ---------------------------------------------------------------------------------------------------------


def parse_json(text: str | bytes, place: object, error: type[LTX2Error] = CheckpointError) -> dict[str, Any]:
    """The object that ``text`` holds. Raises ``error`` in one line that names ``place`` for anything else."""
    try:
        content = json.loads(text)
        json.dumps(content, ensure_ascii=False).encode()  # fails for half of a surrogate pair, which is no text
    except RecursionError:
        raise error(f"{place}: not JSON (nested too deeply)") from None
    except ValueError as reason:  # of syntax, encoding, or an integer of thousands of digits
        raise error(f"{place}: {instead_of_json(text) or f'not JSON ({cut(str(reason))})'}") from None
    if not isinstance(content, dict):
        raise error(f"{place}: a JSON {type(content).__name__}, expected an object")
    return content


def instead_of_json(text: str | bytes) -> str:
    """What a text is that was to be JSON, and what to do; empty where it is not known."""
    start = text[:200].encode("utf-8", "replace") if isinstance(text, str) else text[:200]
    start = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer and not the file itself: run `git lfs pull`, or download it again"
    if start.startswith(b"<"):
        return "a web page and not the file itself: download it again"
    return "" if start else "empty: download it again"


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds. Raises CheckpointError in one line."""
    if path.exists() and not path.is_file():
        raise CheckpointError(f"{path}: not a regular file")
    try:
        size = path.stat().st_size
        if size > 1 << 28:
            raise CheckpointError(f"{path}: {size:,} bytes, more than any such file has")
        return parse_json(path.read_bytes(), path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None


def short(value: object) -> str:
    """The value for a message, cut where it is long."""
    try:
        return cut(repr(value))
    except (ValueError, RecursionError):  # thousands of digits
        return "a huge value"


def cut(text: str, length: int = 100) -> str:
    """The first characters of a text, on one line."""
    line = " ".join(text[: 4 * length].split())
    return line if len(line) <= length else f"{line[:length]}…"


# ---- sections -----------------------------------------------------------------------------------------------------


def section_of(config: dict[str, Any], name: str) -> dict[str, Any]:
    """The section ``name`` of the config. Raises ConfigError where there is none."""
    section = config.get(name)
    if not isinstance(section, dict):
        found = cut(", ".join(sorted(config)) or "none")
        raise ConfigError(f"the checkpoint's config has no section '{name}' (found: {found})")
    return section


def require(section: dict[str, Any], name: str, fixed: dict[str, Any]) -> None:
    """Check that the section has exactly these values. Raises ConfigError for another."""
    for key, expected in fixed.items():
        if section.get(key) != expected:
            raise ConfigError(f"{name}.{key} is {short(section.get(key))}, and only {expected!r} is supported")


def choice(section: dict[str, Any], name: str, key: str, choices: dict[str, Any]) -> Any:
    """The choice that the value of ``key`` names. Raises ConfigError for a value that names none."""
    value = section.get(key)
    if not isinstance(value, Hashable) or isinstance(value, bool) or value not in choices:
        raise ConfigError(f"{name}.{key} is {short(value)}, expected one of {sorted(choices)}")
    return choices[value]


def read_fields(cls: type, section: dict[str, Any], name: str, ignored: set[str]) -> dict[str, Any]:
    """Read the fields of ``cls`` from ``section``, lists as tuples.

    Raises ConfigError for a missing field without a default, for an unknown key, and for a value of another type or
    outside the range that the field's type states.
    """
    assert is_dataclass(cls)
    known = {f.name: f for f in fields(cls)}
    unknown = [k for k in section if k not in known and k not in ignored]
    # A key that is off (false, null, zero) means the same as its absence.
    if changing := [k for k in unknown if section[k]]:
        listed = cut(", ".join(f"{k}={short(section[k])}" for k in changing))
        raise ConfigError(f"{name} has unknown keys that may change the network: {listed}")
    required = [f.name for f in known.values() if f.default is f.default_factory]  # both MISSING: no default
    if missing := [k for k in required if k not in section]:
        raise ConfigError(
            f"{name} lacks {', '.join(missing)}; ltx-core's defaults are not the released values. Use an official "
            "checkpoint"
        )
    types = types_of(cls)
    return {k: fitted(section[k], types[k], f"{name}.{k}") for k in known if k in section}


@cache
def types_of(cls: type) -> dict[str, Any]:
    """The types of a dataclass's fields with the ranges that they state. To evaluate them takes longer than the rest of
    reading.

    Their names are those of the module that made the class, whatever is imported under its name by now.
    """
    return get_type_hints(cls, vars(cls)["__init__"].__globals__, include_extras=True)


def table_of(section: dict[str, Any], name: str, key: str) -> dict[str, Any]:
    """The table under ``key``. Raises ConfigError for anything else."""
    table = section.get(key)
    if not isinstance(table, dict):
        raise ConfigError(f"{name}.{key} is {short(table)}, expected a table")
    return table


def require_known(section: dict[str, Any], name: str, known: set[str], ignored: set[str]) -> None:
    """Check the section's keys. Raises ConfigError for an unknown one that is not off."""
    if changing := [k for k in section if k not in known | ignored and section[k]]:
        raise ConfigError(f"{name} has unknown keys that may change the network: {cut(', '.join(changing))}")


# ---- values -------------------------------------------------------------------------------------------------------


def fitted(value: Any, wanted: Any, place: str) -> Any:
    """``value`` as the annotation ``wanted`` says, lists as tuples. Raises ConfigError for another type, and for a
    number outside its range. Enums and tables of other classes are left to who reads them."""
    limits = None
    if get_origin(wanted) is Annotated:
        wanted, *extras = get_args(wanted)
        limits = next((extra for extra in extras if isinstance(extra, Within)), None)
    if get_origin(wanted) in (Union, UnionType):
        options = get_args(wanted)
        if value is None and NoneType in options:
            return None
        return fitted(value, next(option for option in options if option is not NoneType), place)
    if get_origin(wanted) is tuple:
        return _tuple(value, get_args(wanted), place)
    if wanted in _PLAIN:
        return _number(value, wanted, limits or _PLAIN[wanted], place)
    if wanted in (bool, str) and type(value) is not wanted:
        raise ConfigError(f"{place} is {short(value)}, expected {wanted.__name__}")
    return value


def _tuple(value: Any, items: tuple[Any, ...], place: str) -> Any:
    each = items[0]
    if is_dataclass(each):  # the reader of blocks makes these
        return value
    if not isinstance(value, (list, tuple)) or len(value) > _LONGEST:
        raise ConfigError(f"{place} is {short(value)}, expected a list")
    if items[-1] is not Ellipsis and len(value) != len(items):
        raise ConfigError(f"{place} is {short(value)}, expected {len(items)} values")
    return tuple(fitted(item, each, f"{place}[{i}]") for i, item in enumerate(value))


def _number(value: Any, wanted: type, limits: Within, place: str) -> Any:
    types = (int, float) if wanted is float else (int,)
    if isinstance(value, bool) or not isinstance(value, types):
        raise ConfigError(f"{place} is {short(value)}, expected {wanted.__name__}")
    if not limits.low <= value <= limits.high:  # NaN as well
        said = "a positive number" if value <= 0 else "a number"
        raise ConfigError(f"{place} is {short(value)}, expected {said} from {limits.low:g} to {limits.high:g}")
    return value


def count_layers(config: Any) -> int:
    """The sum of all numbers of layers that a config states, its parts' as well: a file holds at least one tensor for
    each of them."""
    if isinstance(config, tuple):
        return sum(map(count_layers, config))
    if not is_dataclass(config) or isinstance(config, (type, Enum)):
        return 0
    types, total = types_of(type(config)), 0
    for item in fields(config):
        value, limits = getattr(config, item.name), _limits(types[item.name])
        counts = limits is not None and limits.layers and value is not None
        total += (sum(value) if isinstance(value, tuple) else value) if counts else count_layers(value)
    return total


def _limits(wanted: Any) -> Within | None:
    for part in (wanted, *get_args(wanted)):
        if get_origin(part) is Annotated:
            return next((extra for extra in get_args(part) if isinstance(extra, Within)), None)
    return None


def check_product(place: str, *sizes: int) -> None:
    """Raises ConfigError for a width that no tensor has."""
    if math.prod(sizes) > 1 << 20:
        raise ConfigError(f"{place} is {math.prod(sizes):,}, more than any network has")
