"""What every process that computes does first."""

from fp4jax.cli import compilation_cache
from fp4jax.data.phantom.cache import default_folder


def prepare() -> None:
    """Compiled programs are kept on disk."""
    compilation_cache.use(default_folder() / "xla")
