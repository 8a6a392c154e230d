"""Reading a section of the metadata, strictly."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from ..errors import ConfigError


def section_of(config: dict[str, Any], name: str) -> dict[str, Any]:
    """The section ``name`` of the config. Raises ConfigError where there is none."""
    section = config.get(name)
    if not isinstance(section, dict):
        found = ", ".join(sorted(config)) or "none"
        raise ConfigError(f"the checkpoint's config has no section '{name}' (found: {found})")
    return section


def require(section: dict[str, Any], name: str, fixed: dict[str, Any]) -> None:
    """Check that the section has exactly these values. Raises ConfigError for another."""
    for key, expected in fixed.items():
        if section.get(key) != expected:
            raise ConfigError(f"{name}.{key} is {section.get(key)!r}, and only {expected!r} is supported")


def choice(section: dict[str, Any], name: str, key: str, choices: dict[str, Any]) -> Any:
    """The choice that the value of ``key`` names. Raises ConfigError for a value that names none."""
    if section[key] not in choices:
        raise ConfigError(f"{name}.{key} is {section[key]!r}, expected one of {sorted(choices)}")
    return choices[section[key]]


def read_fields(cls: type, section: dict[str, Any], name: str, ignored: set[str]) -> dict[str, Any]:
    """Read the fields of ``cls`` from ``section``, lists as tuples.

    Raises ConfigError for a missing field without a default, for an unknown key, and for a value of another type.
    """
    known = {f.name: f for f in fields(cls)}
    unknown = [k for k in section if k not in known and k not in ignored]
    # A key that is off (false, null, zero) means the same as its absence.
    if changing := [k for k in unknown if section[k]]:
        listed = ", ".join(f"{k}={section[k]!r}" for k in changing)
        raise ConfigError(f"{name} has unknown keys that may change the network: {listed}")
    required = [f.name for f in fields(cls) if f.default is f.default_factory]  # both MISSING: no default
    if missing := [k for k in required if k not in section]:
        raise ConfigError(
            f"{name} lacks {', '.join(missing)}; ltx-core's defaults are not the released values. Use an official "
            "checkpoint"
        )
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
    """The table under ``key``. Raises ConfigError for anything else."""
    table = section.get(key)
    if not isinstance(table, dict):
        raise ConfigError(f"{name}.{key} is {table!r}, expected a table")
    return table


def require_known(section: dict[str, Any], name: str, known: set[str], ignored: set[str]) -> None:
    """Check the section's keys. Raises ConfigError for an unknown one that is not off."""
    if changing := [k for k in section if k not in known | ignored and section[k]]:
        raise ConfigError(f"{name} has unknown keys that may change the network: {', '.join(changing)}")
