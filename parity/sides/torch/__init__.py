"""The torch side: the only place of the package that imports torch, ltx-core and ltx-pipelines.

Here is what most stages need. ``loops``, ``files``, ``command_line`` and ``pipelines`` import ltx-pipelines as well,
and with it transformers, which takes five seconds.
"""

from .components import BUILDERS, Tokenizer, Torch, decoded_in_slabs, encoded_in_slabs, loaded_weights

__all__ = ["BUILDERS", "Tokenizer", "Torch", "decoded_in_slabs", "encoded_in_slabs", "loaded_weights"]
