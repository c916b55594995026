"""What every command does: flags of models, --config, --debug, exit codes, messages."""

import dataclasses
import json
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import tyro

from fp4jax import models
from fp4jax.cli import command, model_options
from fp4jax.cli.parsing import at_home, in_flags, read_config, take_values


@dataclasses.dataclass(frozen=True)
class Run:
    """Of a run."""

    arch: str = "cnn"
    learning_rate: float = 1e-3
    epochs: int = 1
    weight_decay: float | None = None
    schedule: Literal["plateau", "constant"] = "plateau"
    model_options: dict[str, int | float | bool | str] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        models.scales(self.arch)
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate is {self.learning_rate}; it must be positive.")


@dataclasses.dataclass(frozen=True)
class Args:
    run: Run = dataclasses.field(default_factory=Run)
    root: Path | None = None


@pytest.fixture
def call(monkeypatch, capsys):
    """call("--arch", "cnn") -> (exit code, the arguments as parsed, standard error)"""

    def call(*argv: object, arguments: Any = None, run=None, **options):
        monkeypatch.setattr(sys, "argv", ["command", *map(str, argv)])
        monkeypatch.setenv("COLUMNS", "100")
        seen, code = [], 0
        try:
            arguments = arguments or model_options.typed(Args)
            command.main(run or seen.append, arguments, "A command.", **options)
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return code, seen[0] if seen else out, err

    return call


@pytest.mark.parametrize(
    ("argv", "options"),
    [
        ((), {}),
        (("--model-options", "stages", "2", "init", "ref"), {"stages": 2, "init": "ref"}),
        (("--model.stages", "2", "--model.init=ref"), {"stages": 2, "init": "ref"}),
        (("--model-options", "stages", "3", "--model.stages", "2"), {"stages": 2}),
        (("--model.skip-dropout-once", "true"), {"skip_dropout_once": True}),
        (
            ("--arch", "unet", "--model.channels", "4", "8", "--model.strides", "2"),
            {"channels": (4, 8), "strides": (2,)},
        ),
        (("--arch=unet", "--model.channels", "4,", "8"), {"channels": (4, 8)}),
        (("--arch", "unet", "--model.strides", "2,1", "2"), {"strides": ((2, 1), 2)}),
        (("--arch", "swin_unetr", "--model.num_heads", "none"), {"num_heads": None}),
        (("--arch", "vit", "--model.prior", "1e-2"), {"prior": 0.01}),
    ],
)
def test_flags_of_a_model(argv, options, call):
    code, args, err = call(*argv)
    assert (code, err) == (0, "")
    assert models.parse_options(args.run.arch, args.run.model_options) == options


def test_help_shows_the_options_of_the_model(call):
    code, text, _ = call("--arch", "unet", "--help")
    assert code == 0
    assert "--model.strides INT|INT,... ..." in text
    assert "--model.norm {instance,batch}" in text
    assert "of the levels, from the top, and of the bottom." in text
    assert "--plugin MODULE" in text
    assert "stages" not in text
    assert "--model.stages INT" in call("--help")[1]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (
            ("--arch", "unet", "--model.norm", "group"),
            "unet: option norm is 'group'; allowed: 'ins",
        ),
        (("--model.stages", "x"), "cnn: option stages is 'x'; allowed: an integer."),
        (("--model.chanels", "4"), "perhaps you meant --model.channels"),
        (("--rooot", "x", "--model.chanels", "4"), "perhaps you meant --root, --model.channels."),
        (("extra",), "unrecognized arguments: extra."),
        (("--arch", "resnet"), "no model 'resnet'; known names: cnn"),
        (("--arch", "resnet", "--model.stages", "4"), "--model.stages"),
        (("--learning-rate", "-1"), "--learning-rate is -1.0; it must be positive."),
        (("--schedule", "x"), "--schedule: invalid choice 'x'; allowed: "),
        (("--epochs", "x"), "--epochs: 'x' is no integer. See --help."),
        (("--learning-rate", "x"), "--learning-rate: 'x' is no number. See --help."),
        (("--weight-decay", "x"), "--weight-decay: 'x' is no FLOAT. See --help."),
        (("--epochs",), "'--epochs'"),
        (("--nothing",), "--nothing"),
        (("--config", "run.json"), "--config"),
    ],
)
def test_what_is_refused_is_one_line(argv, says, call):
    code, _, err = call(*argv)
    assert code == 2
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    assert says in err
    for word in ("dummy", "Value error", "Error parsing", "Parsing error", "╭"):
        assert word not in err


def test_what_subcommands_refuse_is_one_line(call):
    kinds = tyro.extras.subcommand_type_from_defaults({"one": Args(), "two": Args(Run("vit"))})
    for kind in (kinds, Annotated[kinds, tyro.conf.arg(name="")]):
        code, _, err = call("two", "--learning-rate", "-1", arguments=kind)
        assert (code, err) == (2, "error: --learning-rate is -1.0; it must be positive.\n")
        code, _, err = call("two", "--epochs", "x", arguments=kind)
        assert (code, err.endswith("epochs: 'x' is no integer. See --help.\n")) == (2, True)


def test_config(call, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"arch": "unet", "epochs": 7}))

    def config(path: Path, argv: Sequence[str]) -> Args:
        assert str(path) not in argv
        return Args(Run(**json.loads(path.read_text())))

    code, args, err = call(
        "--config", path, "--model.strides", 2, "--learning-rate", "0.5", config=config
    )
    assert (code, err) == (0, "")
    assert args.run == Run("unet", 0.5, 7, model_options={"strides": "2"})
    code, args, _ = call("--arch", "cnn", "--config", path, arguments=Args, config=config)
    assert args == Args(Run("cnn", epochs=7))
    code, _, err = call("--config", tmp_path / "absent.json", config=config)
    assert (code, "there is no file" in err) == (2, True)
    code, _, err = call("--config", path, "--config", path, config=config)
    assert (code, err) == (2, "error: --config is given 2 times; give it once.\n")
    assert "--config FILE" in call("--help", config=config)[1]


def test_reading_flags(tmp_path):
    (tmp_path / "a").touch()
    assert read_config(["x", "--config=" + str(tmp_path / "a"), "y"]) == (
        tmp_path / "a",
        ["x", "y"],
    )
    assert take_values(["--plugin", "a", "b", "--plugin=c"], "--plugin") == (["a", "c"], ["b"])


class Stopped(BaseException):
    exit_code = 143


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (ValueError("root is wrong"), 2, "error: --root is wrong\n"),
        (FileNotFoundError("no file"), 2, "error: no file\n"),
        (KeyboardInterrupt(), 130, "error: interrupted; repeat the command to go on.\n"),
        (Stopped("saved at epoch 3"), 143, "error: saved at epoch 3\n"),
        (SystemExit(5), 5, ""),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_exit_codes(error, code, says, call):
    def run(args):
        raise error

    assert call(run=run)[::2] == (code, says)
    if says:
        found, _, err = call("--debug", run=run)
        assert (found, "Traceback" in err, "in run" in err) == (code, True, True)


def test_mistakes_of_the_program_are_not_hidden(call):
    def run(args):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        call(run=run)


def test_debug_shows_where_the_arguments_were_refused(call):
    code, _, err = call("--debug", "--learning-rate", "-1")
    assert (code, "in __post_init__" in err) == (2, True)


SCRIPT = """
import sys
from fp4jax.cli import command
from dataclasses import make_dataclass
command.main(lambda args: print("x" * int(sys.argv[0])), make_dataclass("Args", []), "A command.")
"""


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("argv", [["10", "--help"], ["10"], ["1000000"]], ids=" ".join)
def test_a_closed_pipe_is_quiet(argv, unbuffered):
    code = f"import sys; sys.argv = {argv}\n{SCRIPT}"
    reading, writing = os.pipe()
    os.close(reading)
    run = subprocess.run(
        [sys.executable, "-c", code],
        stdout=writing,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
    )
    os.close(writing)
    assert (run.returncode, run.stderr) == (141, b"")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("image_size is 0; image_size must be 1", "--image-size is 0; --image-size must be 1"),
        ("config.image_size, 'image_size'", "config.image_size, 'image_size'"),
        ("loss is x: loss of blood, no loss 'x'", "--loss is x: loss of blood, no loss 'x'"),
        ("leave root out, the root is there", "leave --root out, the root is there"),
    ],
)
def test_names_of_arguments_in_messages(text, expected):
    some = dataclasses.make_dataclass("Some", ["image_size", "loss", "root"])
    assert in_flags(text, some) == expected


def test_home_folders_in_every_path(call, monkeypatch, tmp_path):
    """A shell replaces ~ only where a word begins with it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    code, args, _ = call("--root=~/x")
    assert (code, args.root) == (0, tmp_path / "x")
    inner = dataclasses.make_dataclass("Inner", ["path"], frozen=True)
    kind = dataclasses.make_dataclass("Outer", ["inner", "paths", "named", "text"], frozen=True)
    outer = kind(inner(Path("~/a")), (Path("~"), Path("b")), {"c": Path("~/c")}, "~/d")
    found = at_home(outer)
    assert found.inner.path == tmp_path / "a"
    assert found.paths == (tmp_path, Path("b"))
    assert (found.named, found.text) == ({"c": tmp_path / "c"}, "~/d")
    code, _, err = call("--root=~nobody_of_this_name/x")
    assert code == 2
    assert "there is no home folder ~nobody_of_this_name" in err


@dataclasses.dataclass(frozen=True)
class Needs:
    """What must be given."""

    model: Annotated[Path, tyro.conf.Positional]
    # a file that does not exist
    out: Path
    decode: bool = False


SUBCOMMANDS = tyro.extras.subcommand_type_from_defaults({"demo": Run(), "paper-cv": Run()})


@pytest.mark.parametrize(
    ("argv", "arguments", "says"),
    [
        (["nope"], SUBCOMMANDS, "no subcommand nope; allowed: demo, paper-cv."),
        ([], Needs, "missing: PATH, --out PATH."),
        (["m"], Needs, "missing: --out PATH."),
        (["m", "--out", "o", "--decode-x"], Needs, "--decode-x; perhaps you meant --decode."),
    ],
)
def test_what_is_missing_or_unknown_is_named(call, argv, arguments, says):
    code, _, err = call(*argv, arguments=arguments)
    assert code == 2
    assert err.removeprefix("error: ").endswith(f"{says} See --help.\n")


def test_warnings_are_lines_like_errors(call):
    logger = logging.getLogger("fp4jax.train.threshold")

    def warn(args):
        logger.warning("%s: no threshold.", args.run.arch)
        raise ValueError("enough")

    _, _, err = call(run=warn, arguments=Args)
    assert err == "warning: cnn: no threshold.\nerror: enough\n"
    assert not logging.getLogger("fp4jax").handlers
