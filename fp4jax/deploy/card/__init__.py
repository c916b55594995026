"""A model card for the Hugging Face hub: what was trained on what, how well, and what is in FP4."""
