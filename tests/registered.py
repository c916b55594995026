"""A fixture for tests that register something: they leave nothing behind."""

import sys
from collections.abc import Iterator

import pytest

from fp4jax import plugins
from fp4jax.core import number_format
from fp4jax.data import loaders
from fp4jax.deploy import targets
from fp4jax.deploy.runtimes import rule
from fp4jax.losses import named
from fp4jax.models import registry
from fp4jax.ops import attention_recipe, recipe
from fp4jax.study.engines import protocol
from fp4jax.track import registry as trackers

REGISTRIES = (
    number_format._FORMATS,
    recipe._RECIPES,
    attention_recipe._RECIPES,
    registry._MODELS,
    named._LOSSES,
    loaders._LOADERS,
    targets._TARGETS,
    rule._RUNTIMES,
    protocol._ENGINES,
    trackers._TRACKERS,
)


@pytest.fixture
def registries() -> Iterator[None]:
    """What a test registers and imports is forgotten after it."""
    before, modules, path = [list(r) for r in REGISTRIES], set(sys.modules), list(sys.path)
    loaded = list(plugins._loaded)
    yield
    for known, names in zip(REGISTRIES, before, strict=True):
        for name in set(known) - set(names):
            known.remove(name)
    for name in set(sys.modules) - modules:
        if name.startswith("own_"):
            del sys.modules[name]
    sys.path[:], plugins._loaded[:] = path, loaded
