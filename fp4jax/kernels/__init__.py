"""GPU kernels and what chooses between them; every one has a reference that runs anywhere."""
