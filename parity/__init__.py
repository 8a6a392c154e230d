"""Proof, tensor by tensor, that ``ltx2_mlx`` computes what ``ltx-core`` computes; where it does not, the place."""

import os

# MLX's CUDA backend multiplies float32 in TF32 (2.9e-4 relative error) unless this is set before its first product.
# Whatever it was set to: float32 means float32 here, in this process and in the workers.
TF32_ASKED = os.environ.get("MLX_ENABLE_TF32")  # for the doctor, who asks what float32 means outside
os.environ["MLX_ENABLE_TF32"] = "0"
# It also keeps 128 plans of convolutions and 400 graphs, and stops with an error when a run needs more.
os.environ.setdefault("MLX_CUDA_CONV_CACHE_SIZE", "1024")
os.environ.setdefault("MLX_CUDA_GRAPH_CACHE_SIZE", "8192")
# torch then asks Linux for pages of 2 MB for what is large, such as the weights of a streamed run.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
