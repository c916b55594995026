"""Model cards: a header that parses, and a text that says what is known and what is not."""

import dataclasses

import numpy as np
import yaml

from fp4jax import deploy, predict
from fp4jax.deploy.card.target import card_text
from fp4jax.deploy.scores import Score, scores_of
from tests import fabricated_runs
from tests.deploy.subjects import subject


def test_a_card_and_the_packed_file_beside_it(tmp_path):
    scored = dataclasses.replace(
        subject("vit", "full"), scores=(Score("dice", 0.5, (0.25, 0.75), 4),)
    )
    deploy.export(scored, "model-card", tmp_path / "hub")
    assert {f.name for f in (tmp_path / "hub").iterdir()} == {"README.md", "model.safetensors"}
    assert predict.describe(tmp_path / "hub" / "model.safetensors") == scored.about
    text = (tmp_path / "hub" / "README.md").read_text()
    _, top, body = text.split("---\n", 2)
    header = yaml.safe_load(top)
    assert header["pipeline_tag"] == "image-segmentation"
    own = header["fp4jax"]
    assert own["data_digest"] == scored.about.digest
    assert own["patients"] == {"train": 2, "val": 1, "test": 1}
    (metric,) = header["model-index"][0]["results"][0]["metrics"]
    assert (metric["type"], metric["value"]) == ("dice", 0.5)
    assert metric["args"]["interval_95"] == [0.25, 0.75]
    assert "0.500 (95 % interval 0.250 to 0.750) of 4 test patients" in body
    row = "| `blocks.0.mlp.fc1` | Linear | 32 x 192 | FP4, blocks 1x16 | FP4, blocks 1x16, static"
    assert row in body
    assert "| `patch_embed.proj` | Linear | 128 x 32 | float32 | float32 |" in body
    assert "split by patients: 2 train, 1 val, 1 test" in body
    assert "no medical device" in body


def test_what_is_not_known_is_said():
    text = card_text(subject("vit", "full"), front=False)
    assert text.startswith("# vit\n")
    assert "Not known. `fp4jax evaluate" in text


def test_scores_of_a_run_have_intervals_over_patients(tmp_path):
    own = fabricated_runs.cohort(patients=3)
    folder = fabricated_runs.run(tmp_path, own, arch="cnn", scale="500k", recipe="full")
    auprc, dice = scores_of(folder)
    assert (auprc.name, dice.name, auprc.patients) == ("auprc", "dice", 3)
    for score in (auprc, dice):
        assert score.interval is not None
        low, high = score.interval
        assert 0 <= low <= score.value <= high <= 1
        assert low < high
    assert scores_of(tmp_path) == ()
    one = Score("dice", 0.5, None, 1)
    assert str(one) == "0.500"
    assert np.isclose(dice.value, np.mean(list(summary(folder)["test_patients"].values())))


def summary(folder):
    from fp4jax.train import RunFolder

    return RunFolder(folder).summary()
