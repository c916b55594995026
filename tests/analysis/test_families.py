"""Which runs of a folder may be compared."""

from types import SimpleNamespace
from typing import Any

from fp4jax.analysis.report.families import families
from fp4jax.train import RunConfig, Slices


def run(recipe, **options: Any) -> Any:
    config = RunConfig(Slices("phantom", image_size=32), arch="cnn", recipe=recipe, **options)
    return SimpleNamespace(config=config.resolved(), digest="d", environment=None)


def compared(*runs):
    return [[one.config.recipe_name for one in own] for own in families(runs).values()]


def test_a_baseline_is_compared_with_what_was_calibrated():
    """It has no scales that could be, so that a study does not give it that option."""
    runs = [run("baseline"), run("full", calibrate="max"), run("sr", calibrate="max")]
    assert compared(*runs) == [["baseline", "full", "sr"]]
    assert compared(run("baseline"), run("full"), run("sr")) == compared(*runs)
    # Quantized after training it is calibrated, but no step has a running amax.
    after = run("full", method="ptq", calibrate="max")
    assert compared(*runs, after) == [["baseline", "full", "sr", "full"]]


def test_runs_with_other_scales_are_not_compared():
    runs = [run("baseline"), run("full", calibrate="max"), run("full"), run("sr")]
    assert compared(*runs) == [["baseline", "full"], ["baseline", "full", "sr"]]


def test_names_follow_from_the_settings():
    plain = families([run("baseline"), run("full")])
    assert plain.keys() == families([run("baseline")]).keys()
    assert plain.keys() != families([run("full", calibrate="max")]).keys()
