"""Subjects read from runs: in float32, whatever the run computed in."""

import jax
import numpy as np
from flax import nnx

from fp4jax import deploy
from fp4jax.nnx.packed_files import is_packed
from fp4jax.train import read_trained
from fp4jax.train.best import write_best
from fp4jax.train.program import program_of
from tests import blobs, fabricated_runs


def test_a_run_in_bfloat16_is_read_in_float32_which_is_said_once(tmp_path, caplog):
    folder = fabricated_runs.run(
        tmp_path,
        fabricated_runs.cohort(patients=3),
        arch="cnn",
        scale="500k",
        recipe="forward_only",
        dtype="bfloat16",
        model_options=blobs.TINY,
    )
    trained = read_trained(folder)
    start = program_of(trained.config, len(trained.channels), len(trained.regions)).start(0)
    write_best(folder, (start.params, start.stats))
    one = deploy.read_subject(folder)
    (record,) = caplog.records
    assert record.getMessage() == f"{folder} computes in bfloat16, and is read in float32."
    assert (one.about.dtype, is_packed(one.model)) == ("float32", True)
    assert [score.name for score in one.scores] == ["auprc", "dice"]
    graph, state = nnx.split(one.model)
    logits = jax.eval_shape(lambda x: nnx.merge(graph, state)(x), one.examples(1))
    assert logits.dtype == np.float32
