"""Engines: what executes the groups of a study, and where: here, on a Ray cluster, on your own."""

from fp4jax.study.engines.local import Local as Local
from fp4jax.study.engines.protocol import (
    Engine as Engine,
    engine as engine,
    register_engine as register_engine,
)
from fp4jax.study.engines.ray import RayEngine as RayEngine
from fp4jax.study.engines.work import Work as Work

register_engine("local", Local)
register_engine("ray", RayEngine)
