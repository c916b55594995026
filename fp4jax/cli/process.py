"""What every process that computes does first."""

from fp4jax.cli import compilation_cache
from fp4jax.data.phantom.cache import default_folder
from fp4jax.memory import keep_pages


def prepare() -> None:
    """Compiled programs are kept on disk, and freed memory in the process."""
    compilation_cache.use(default_folder() / "xla")
    keep_pages()
