"""The two frameworks behind one interface. torch is in ``torch/`` and nowhere else."""
