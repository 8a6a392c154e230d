"""Faults that real ports shipped, one file a component."""

from .planting import Mutation, planted
from .text import TEXT
from .transformer import TRANSFORMER

MUTATIONS = (*TEXT, *TRANSFORMER)

__all__ = ["MUTATIONS", "Mutation", "planted"]
