"""Is the device sound? MLX's primitives at the sizes of a released model, on random data, without torch or weights."""
