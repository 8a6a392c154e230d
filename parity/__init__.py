"""Proof, tensor by tensor, that ``ltx2_mlx`` computes what ``ltx-core`` computes; where it does not, the place."""
