"""The torch side: the only place of the package that imports torch, ltx-core and ltx-pipelines."""

from .components import BUILDERS, Tokenizer, Torch, loaded_weights

__all__ = ["BUILDERS", "Tokenizer", "Torch", "loaded_weights"]
