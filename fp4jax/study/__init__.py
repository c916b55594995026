"""Studies: architectures x scales x recipes x splits x seeds, expanded into runs and executed."""

from fp4jax.study.engines import (
    Engine as Engine,
    engine as engine,
    register_engine as register_engine,
)
from fp4jax.study.execution import Outcome as Outcome, execute as execute
from fp4jax.study.expectations import Expectation as Expectation
from fp4jax.study.plan import Study as Study
from fp4jax.study.record import StudyRecord as StudyRecord, read_records as read_records
