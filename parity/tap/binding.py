"""Arguments of a call by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

_EMPTY = inspect.Parameter.empty


class Binder:
    """Binds calls of one function as ``inspect.Signature.bind`` does, several times faster: a run has 100,000 calls."""

    def __init__(self, function: Callable[..., Any], method: bool = False):
        """method: without the first parameter."""
        try:
            signature = inspect.signature(function)
        except ValueError:  # a builtin without one
            signature = inspect.signature(lambda *args, **kwargs: None)
        parameters = list(signature.parameters.values())[method:]
        self.first = next(iter(signature.parameters), "")
        self._signature = signature.replace(parameters=parameters)
        self.parameters = tuple(self._signature.parameters)
        self._defaults = {parameter.name: parameter.default for parameter in parameters}
        self._positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        self._plain = all(p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) for p in parameters)

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> inspect.BoundArguments:
        """With defaults. Raises TypeError where the function does not take such arguments."""
        if self._plain and len(args) <= len(self._positional):
            given = dict(zip(self._positional, args, strict=False))
            arguments = self._defaults | given | kwargs
            known = len(arguments) == len(self._defaults) and not given.keys() & kwargs.keys()
            if known and all(value is not _EMPTY for value in arguments.values()):
                return inspect.BoundArguments(self._signature, arguments)
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return bound
