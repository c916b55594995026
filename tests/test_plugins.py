"""A user's own module: what it registers is known everywhere, and how it is imported."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import fp4jax as fp4
from fp4jax import data, losses, models, plugins
from fp4jax.cli import command
from tests.registered import registries as registries

ROOT = Path(__file__).parents[1]
MODULE = """
import dataclasses
import numpy as np
import jax.numpy as jnp
from flax import nnx
import fp4jax as fp4


class Pixelwise(nnx.Module):
    \"\"\"Two linear layers.

    Args:
        width: of the hidden layer.
    \"\"\"

    scales = {"tiny": {"width": 16}}
    high_precision = (r"head$",)

    def __init__(
        self, *, width: int, in_channels=3, num_classes=1, image_size=256, rngs, dtype=None
    ):
        self.body = nnx.Linear(in_channels, width, dtype=dtype, rngs=rngs)
        self.head = nnx.Linear(width, num_classes, dtype=dtype, rngs=rngs)

    def __call__(self, x, *, rngs=None):
        return self.head(nnx.relu(self.body(x))).astype(jnp.float32)


def brier(logits, masks, weights=None):
    error = (nnx.sigmoid(logits.reshape(masks.shape)) - masks.astype(jnp.float32)) ** 2
    images = error.reshape(error.shape[0], -1).mean(1)
    w = jnp.ones_like(images) if weights is None else weights.astype(jnp.float32)
    return (images * w).sum() / jnp.maximum(w.sum(), 1e-9)


def squares(*, image_size=None, count=4):
    size = image_size or 16
    masks = np.zeros((count, size, size), np.uint8)
    masks[:, : size // 2, : size // 2] = 1
    images = np.repeat(masks[..., None] * 200, 3, axis=-1).astype(np.uint8)
    images += np.arange(count, dtype=np.uint8)[:, None, None, None]  # equal ones are one patient's
    ids = np.array([f"p{i:02}" for i in range(count)])
    return fp4.data.Cohort(images, masks, ids, np.zeros(count, np.int32), "squares", tuple("rgb"))


fp4.models.register("pixelwise", Pixelwise)
fp4.losses.register("brier", brier)
fp4.data.register("squares", squares, needs_root=False)
fp4.register_recipe(dataclasses.replace(fp4.get_recipe("full"), name="half", wgrad=(None, None)))
"""


@pytest.fixture
def own(registries, tmp_path, monkeypatch):
    """The module own_parts in the current folder."""
    (tmp_path / "own_parts.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@dataclasses.dataclass(frozen=True)
class Args:
    arch: str = "cnn"
    count: int = 1


def call(monkeypatch, *argv, arguments=Args, run=lambda args: None, **options):
    """Exit code of a command with these arguments; 0 if it returns."""
    monkeypatch.setattr(sys, "argv", ["command", *map(str, argv)])
    try:
        command.main(run, arguments, "A command.", **options)
    except SystemExit as end:
        return end.code
    return 0


def test_everything_a_module_registers_is_known(own, monkeypatch):
    def run(args):
        assert command.plugins()[-1] == "own_parts"
        assert args.arch == "pixelwise"
        model = models.create("pixelwise", width="32", rngs=nnx.Rngs(0))
        assert model.body.kernel.shape == (3, 32)
        assert "pixelwise" in models.names()
        assert models.options("pixelwise")["width"].help == "of the hidden layer."
        assert models.default_scale("pixelwise") == "tiny"
        assert "brier" in losses.losses()
        loss = losses.get_loss("brier", labels=3)
        value, parts = loss.with_components(jnp.zeros((2, 4, 4)), jnp.ones((2, 4, 4)))
        assert (float(value), list(parts), loss.exclusive) == (0.25, ["brier"], False)
        teacher = jnp.ones((2, 4, 4))
        total, _ = losses.Distillation(task=loss).with_components(teacher, teacher, teacher)
        assert total.shape == ()
        assert len(data.load("squares", image_size=8, count=3)) == 3
        assert data.options("squares") == ("image_size", "count")
        assert fp4.get_recipe("half").wgrad == (None, None)
        fp4.nnx.apply_recipe(model, "half", keep=model.high_precision, verbose=False)

    assert call(monkeypatch, "--plugin", "own_parts", "--arch", "pixelwise", run=run) == 0
    # once more, in the other spelling
    assert call(monkeypatch, "--plugin=own_parts", "--arch=pixelwise", run=run) == 0
    for find in (models.scales, losses.get_loss, data.load, fp4.get_recipe):
        with pytest.raises(ValueError, match=r"known names: .*(pixelwise|brier|squares|half)"):
            find("absent")


def test_a_command_in_a_process_of_its_own(own):
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
sys.argv[1:] = ["--plugin", "own_parts", "--data", "squares", "--image-size", "8"]
from fp4jax.cli.verbs import data
data.VERB.run()
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=own)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["patients"] == 4


@pytest.mark.parametrize(
    ("text", "name", "says"),
    [
        (None, "own_absent", "plug-in 'own_absent': there is no module of that name"),
        ("", "own_bad.py", "give its module's name, own_bad"),
        ("import own_lost", "own_bad", "plug-in 'own_bad' needs a module: No module named 'own_l"),
        ("1 / 0", "own_bad", "plug-in 'own_bad' cannot be imported: ZeroDivisionError: division"),
        ("\n\n1 / 0", "own_bad", "own_bad.py, line 3)"),
        ("def f(:", "own_bad", "cannot be imported: SyntaxError"),
        ("raise SystemExit(3)", "own_bad", "cannot be imported: SystemExit: 3"),
    ],
)
def test_a_module_that_cannot_be_imported(
    text, name, says, registries, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path("own_bad.py").write_text(text)
    assert call(monkeypatch, "--plugin", name) == 2
    error = capsys.readouterr().err
    assert says in error
    assert len(error.splitlines()) == 1
    assert name not in plugins.names()


def test_a_flag_without_a_value(monkeypatch, capsys):
    assert call(monkeypatch, "--plugin") == 2
    assert capsys.readouterr().err == "error: --plugin has no value; give one after it.\n"


class Layer(nnx.Module):
    scales: ClassVar[dict[str, dict[str, Any]]] = {"one": {}}
    high_precision: ClassVar[tuple[str, ...]] = ()

    def __init__(self, *, in_channels, num_classes, image_size, rngs, dtype, size: int = 1):
        pass


def changed(**attributes):
    return type("Layer", (Layer,), attributes)


def lacks(self, *, in_channels, num_classes, rngs):
    pass


def needs(self, *, in_channels, num_classes, image_size, rngs, dtype, size: int):
    pass


@pytest.mark.parametrize(
    ("register", "says"),
    [
        (lambda: models.register("cnn", Layer), "another model 'cnn'"),
        (lambda: models.register("a/b", Layer), "use letters"),
        (lambda: models.register("own", "Layer"), "no class"),
        (lambda: models.register("own", changed(scales=None)), "scales is None"),
        (lambda: models.register("own", changed(scales={"one": {"sise": 1}})), "sets sise"),
        (lambda: models.register("own", changed(default_scale="2")), "allowed: None, one"),
        (
            lambda: models.register("own", changed(__init__=lacks)),
            "arguments image_size, dtype",
        ),
        (lambda: models.register("own", changed(__init__=needs)), "'one' of Layer leaves size"),
        (lambda: models.register("own", type("Bare", (), {"scales": {}})), "no high_precision"),
        (lambda: losses.register("dice", lambda z, y, w: z.mean()), "another loss 'dice'"),
        (lambda: losses.register("own", lambda z, y: z.mean()), "neither an object"),
        (lambda: losses.register("own", 3), "3 is neither an object"),
        (lambda: losses.register("own", losses.get_loss("dice")), "own name is 'dice'"),
        (lambda: data.register("lgg", lambda root, image_size: None), "another data set 'lgg'"),
        (lambda: data.register("own", lambda image_size: None), "must be root"),
        (lambda: data.register("own", lambda root: None), "no argument image_size"),
        (lambda: data.register("own", 3), "no function"),
        (lambda: fp4.register_recipe(fp4.Recipe(name="full")), "another recipe 'full'"),
        (lambda: fp4.register_recipe(fp4.Recipe(name="12")), "taken for an id"),
        (lambda: fp4.register_recipe("full"), "give a Recipe"),
    ],
)
@pytest.mark.usefixtures("registries", "unchecked_types")
def test_what_cannot_be_registered(register, says):
    with pytest.raises(ValueError, match=says):
        register()


def test_the_same_once_more(registries):
    for _ in range(2):
        models.register("own", Layer)
        losses.register("own", own_loss)
        data.register("own", own_loader, needs_root=False)
        fp4.recipes.register(fp4.Recipe(name="own"))
    assert models.names()[-1] == losses.losses()[-1] == data.names()[-1] == fp4.recipes()[-1]


def own_loss(logits, masks, weights):
    return logits.mean()


def own_loader(image_size=None):
    return np.zeros(3)


def test_a_factory_of_losses(registries):
    def make(labels):
        return losses.Loss(name="own", dice_weight=1.0, labels=labels)

    losses.register("own", make)
    assert losses.get_loss("own").labels is None
    assert losses.get_loss("own", labels=3).labels == 3
    losses.register("wrong", lambda labels: 3)
    with pytest.raises(ValueError, match="factory of loss 'wrong' returned 3"):
        losses.get_loss("wrong")


def test_data_sets_refuse_what_they_do_not_have(registries):
    with pytest.raises(ValueError, match="'phantom' has no option target; its options are: pat"):
        data.load("phantom", target="tumour_core")
    data.register("own", own_loader, needs_root=False)
    with pytest.raises(ValueError, match="loader of 'own' returned ndarray; it must return a Coh"):
        data.load("own")
