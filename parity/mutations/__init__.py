"""Faults that real ports shipped, one file a component."""

from .planting import Mutation, planted
from .transformer import TRANSFORMER

MUTATIONS = (*TRANSFORMER,)

__all__ = ["MUTATIONS", "Mutation", "planted"]
