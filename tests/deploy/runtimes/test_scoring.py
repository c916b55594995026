"""Scores of a run as targets would compute it, beside its own."""

import dataclasses
import json

import pytest

from fp4jax import deploy
from fp4jax.deploy.runtimes.planned import planned
from fp4jax.deploy.runtimes.scoring import evaluate_on
from fp4jax.train import RunFolder, evaluate_folder, train
from tests import blobs

COHORT = blobs.cohort()
#: As in tests/train/test_static_scales.py, whose compiled step it shares.
CONFIG = blobs.config(recipe="forward_only", epochs=1, calibrate="max", calibration_batches=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> RunFolder:
    (one,) = train(CONFIG, COHORT, tmp_path_factory.mktemp("run"))
    return one


def test_targets_of_float32_have_the_runs_own_score(folder):
    own = evaluate_folder(folder.path, COHORT)
    there = evaluate_on(folder.path, COHORT, "onnxruntime")
    assert there["target"] == "onnxruntime"
    assert set(there["products"]) == {"float32", "float32 with FP4 values"}
    assert {name: there[name] for name in own} == own
    assert "half" not in there


def test_tensorrt_takes_static_scales_and_16_bit_convolutions(folder):
    static = evaluate_folder(folder.path, COHORT, static=True)
    there = evaluate_on(folder.path, COHORT, "tensorrt")
    assert (there["scales"], there["half"]) == ("static", "bfloat16")
    assert there["threshold"] == static["threshold"]
    # x is not quantized there
    assert there["auprc"] != static["auprc"]
    assert there["auprc"] == pytest.approx(static["auprc"], abs=0.1)
    assert json.loads(json.dumps(there)) == there


def test_a_run_that_is_planned_or_trained_has_one_table(folder):
    trained, to_come = planned(folder.path), planned(CONFIG)
    assert trained.name == folder.path.name
    tables = [deploy.target_table(p.model, "tensorrt", p.example) for p in (trained, to_come)]
    assert tables[0] == tables[1]
    assert tables[0].shares == evaluate_on(folder.path, COHORT, "tensorrt")["products"]


def test_runs_that_cannot_be_scored(folder, tmp_path):
    with pytest.raises(ValueError, match="no target 'trt'"):
        evaluate_on(folder.path, COHORT, "trt")
    other = RunFolder(tmp_path / "uncalibrated")
    other.path.mkdir()
    for file in folder.path.iterdir():
        if file.name not in ("static", "amax.json"):
            (other.path / file.name).symlink_to(file)
    (other.path / "summary.json").unlink()
    with pytest.raises(ValueError, match="holds no finished run"):
        evaluate_on(other.path, COHORT, "tensorrt")
    summary = {name: v for name, v in (folder.summary() or {}).items() if name != "static"}
    (other.path / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(ValueError, match=r"was not calibrated, and tensorrt takes static scales"):
        evaluate_on(other.path, COHORT, "tensorrt")


def test_what_is_neither_a_run_nor_a_file(tmp_path):
    with pytest.raises(ValueError, match="holds no run; name a folder with"):
        planned(tmp_path)
    with pytest.raises(ValueError, match="there is no"):
        planned(tmp_path / "nowhere")


def test_keep_of_a_configuration_counts():
    config = dataclasses.replace(CONFIG, keep=("decoders",))
    found = planned(config)
    assert found.keep == ("decoders",)
    assert found.recipe == "forward_only"
