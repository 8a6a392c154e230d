"""``ltx2-mlx``: the command line. The only place of the product that parses arguments."""
