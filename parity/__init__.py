"""Proof, tensor by tensor, that ``ltx2_mlx`` computes what ``ltx-core`` computes; where it does not, the place."""

import os

# MLX's CUDA backend multiplies float32 in TF32 (2.9e-4 relative error) unless this is set before its first import.
os.environ.setdefault("MLX_ENABLE_TF32", "0")
# It also keeps 128 plans of convolutions, and stops with an error when a run needs more.
os.environ.setdefault("MLX_CUDA_CONV_CACHE_SIZE", "1024")
