"""Rules on the command line: @FILE and JSON, for a run and for a study."""

import dataclasses
import json

import pytest

from fp4jax.cli.options import RunOptions, from_config
from fp4jax.cli.presets import PRESETS
from fp4jax.cli.recipe_options import recipe_of, text_of
from fp4jax.cli.verbs.study import _options
from fp4jax.files import write_json
from fp4jax.ops.recipe import get_recipe
from fp4jax.ops.rules import Rules
from fp4jax.train import RunConfig

RULES = {r"head$": None, ".*": "full"}


def test_a_run_takes_rules_from_a_file(tmp_path):
    path = tmp_path / "rules.json"
    path.write_text(json.dumps(RULES))
    for text in (f"@{path}", json.dumps(RULES), json.dumps(list(RULES.items()))):
        config = RunOptions(recipe=text).config()
        assert config == RunConfig(recipe=RULES)
        assert config.recipe == Rules.make(RULES)
    assert RunOptions(recipe="5").config() == RunConfig(recipe="5")


@pytest.mark.parametrize("recipe", [RULES, "full", dataclasses.replace(get_recipe(1), name="own")])
def test_a_run_starts_from_the_configuration_of_one_with_rules(tmp_path, recipe):
    config = RunConfig(recipe=recipe)
    write_json(tmp_path / "config.json", config.to_json())
    read = from_config(lambda task, run: run)(tmp_path / "config.json")
    assert read.config() == config
    if not isinstance(config.recipe, str):
        assert RunConfig(recipe=recipe_of(text_of(config.recipe))) == config


def test_a_study_takes_rules_from_a_file(tmp_path):
    path = tmp_path / "rules.json"
    path.write_text(json.dumps(RULES))
    options = _options(PRESETS["demo"]().study)
    study = dataclasses.replace(options, recipes=("baseline", f"@{path}")).study()
    assert study.recipes == ("baseline", Rules.make(RULES))
    assert _options(study).study() == study


@pytest.mark.parametrize(
    ("text", "message"),
    [("@nowhere.json", "there is no file nowhere.json"), ("{head: null}", "is no JSON")],
)
def test_bad_files(text, message):
    with pytest.raises(ValueError, match=message):
        recipe_of(text)
