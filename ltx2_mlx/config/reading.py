"""Reading a section of the metadata, strictly."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from ..errors import ConfigError


def section_of(config: dict[str, Any], name: str) -> dict[str, Any]:
    section = config.get(name)
    if not isinstance(section, dict):
        found = ", ".join(sorted(config)) or "none"
        raise ConfigError(f"the checkpoint's config has no section '{name}' (found: {found})")
    return section


def require(section: dict[str, Any], name: str, fixed: dict[str, Any]) -> None:
    for key, expected in fixed.items():
        if section.get(key) != expected:
            raise ConfigError(f"{name}.{key} is {section.get(key)!r}, and only {expected!r} is supported")


def choice(section: dict[str, Any], name: str, key: str, choices: dict[str, Any]) -> Any:
    if section[key] not in choices:
        raise ConfigError(f"{name}.{key} is {section[key]!r}, expected one of {sorted(choices)}")
    return choices[section[key]]


def read_fields(cls: type, section: dict[str, Any], name: str, ignored: set[str]) -> dict[str, Any]:
    """The fields of ``cls`` out of ``section``; a missing one without a default and an unknown key both raise."""
    known = {f.name: f for f in fields(cls)}
    unknown = [k for k in section if k not in known and k not in ignored]
    # A key that is off (false, null, zero) asks for nothing that its absence would not give.
    if changing := [k for k in unknown if section[k]]:
        listed = ", ".join(f"{k}={section[k]!r}" for k in changing)
        raise ConfigError(f"{name} has keys that we do not know and that may change the network: {listed}")
    required = [f.name for f in fields(cls) if f.default is f.default_factory]  # both MISSING: no default
    if missing := [k for k in required if k not in section]:
        raise ConfigError(f"{name} lacks {', '.join(missing)}; ltx-core's defaults are not the released values")
    read = {k: section[k] for k in known if k in section}
    for key, value in read.items():
        wanted = str(known[key].type)
        if wanted in _TYPES and (
            isinstance(value, bool) is not (wanted == "bool") or not isinstance(value, _TYPES[wanted])
        ):
            raise ConfigError(f"{name}.{key} is {value!r}, expected {wanted}")
        if wanted == "int" and value <= 0:
            raise ConfigError(f"{name}.{key} is {value!r}, expected a positive number")
    return {key: tuple(value) if isinstance(value, list) else value for key, value in read.items()}


_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "str": (str,),
    "tuple[int, ...]": (list, tuple),
}


def table_of(section: dict[str, Any], name: str, key: str) -> dict[str, Any]:
    table = section.get(key)
    if not isinstance(table, dict):
        raise ConfigError(f"{name}.{key} is {table!r}, expected a table")
    return table


def require_known(section: dict[str, Any], name: str, known: set[str], ignored: set[str]) -> None:
    if changing := [k for k in section if k not in known | ignored and section[k]]:
        raise ConfigError(f"{name} has keys that we do not know and that may change the network: {', '.join(changing)}")
