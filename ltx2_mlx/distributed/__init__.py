"""One network over several processes: MLX's own engine (``mx.distributed``) carries what they tell each other."""
