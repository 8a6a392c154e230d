"""Text that fits on one line of a terminal: the product's, under a name that the folders above may import."""

from __future__ import annotations

from ltx2_mlx.errors import printable

__all__ = ["printable"]
