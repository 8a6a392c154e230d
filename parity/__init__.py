"""Proof, tensor by tensor, that ``ltx2_mlx`` computes what ``ltx-core`` computes; where it does not, the place."""

import os

# MLX's CUDA backend multiplies float32 in TF32 (2.9e-4 relative error) unless this is set before its first import.
os.environ.setdefault("MLX_ENABLE_TF32", "0")
