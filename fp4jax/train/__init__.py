"""Training: configurations, compiled steps, the loop, checkpoints, run folders."""
