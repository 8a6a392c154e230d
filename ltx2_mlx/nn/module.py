"""The base of every network here: MLX's ``Module`` with a typed constructor, so that type checkers see subclasses."""

from __future__ import annotations

import mlx.nn as nn


class Module(nn.Module):
    """``mlx.nn.Module``, whose own ``__init__`` states no types."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
