"""python -m tests.study.two_processes OUT: a study, for tests that execute it twice at once."""

import sys
from pathlib import Path

from fp4jax.study import Study, execute
from tests import blobs

if __name__ == "__main__":
    config = blobs.config()
    one = Study(
        config.data,
        archs=("cnn",),
        recipes=("baseline", "full", "forward_only"),
        epochs=2,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        model_options=config.model_options,
    )
    outcome = execute(one, blobs.cohort(), Path(sys.argv[1]))
    print("finished", len(outcome.folders), "failures", len(outcome.failures))
