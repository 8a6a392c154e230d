"""Faults that real ports shipped, one file a component."""

from .planting import Mutation, planted
from .sampling import SAMPLING
from .transformer import TRANSFORMER

MUTATIONS = (*TRANSFORMER, *SAMPLING)

__all__ = ["MUTATIONS", "Mutation", "planted"]
