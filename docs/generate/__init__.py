"""What code writes into docs/: figures, and tables of results. ``python -m docs.generate``."""
