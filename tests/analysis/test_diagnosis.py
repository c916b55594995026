"""The diagnosis of a run: formulas by hand, the library's own operands, the two failure modes."""

import csv
import dataclasses
import functools
import hashlib
import importlib
import math
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import fp4jax as fp4
from fp4jax import nnx as fp4nnx
from fp4jax.analysis.diagnosis import Subject, diagnose, of_run, operands, record, tally
from fp4jax.analysis.diagnosis.attention import attention_sums, bias_of, logits
from fp4jax.analysis.diagnosis.gradients import (
    _deviations,
    forward_part,
    gradient_noise,
    gradients,
)
from fp4jax.analysis.diagnosis.products import product_sums
from fp4jax.analysis.diagnosis.recording import Call, Tensors
from fp4jax.analysis.diagnosis.run import batches_of, diagnose_run, patients_of, recipes_for
from fp4jax.data import phantom
from fp4jax.models.dropout import Seeds
from fp4jax.models.swin import WindowAttention
from fp4jax.models.transformer import Attention
from fp4jax.ops import gemm
from fp4jax.ops.gemm import BlockAxes
from fp4jax.train import Data, RunConfig, Slices, Source, Volumes, read_trained
from tests import blobs
from tests.finished_runs import finished
from tests.samples import normal

LAST = BlockAxes(contracted=-1, tile=(-2, -1))
KEY = jax.random.key(0)


def test_sqnr_and_underflow_by_hand():
    # The maximum 6 makes the block's unit 1, so codes are the values of E2M1 nearest to x.
    x = np.zeros((1, 16), np.float32)
    x[0, :4] = 6, 0.2, 0.3, 4.6
    found = tally(jnp.asarray(x), fp4.TensorSpec(), LAST).quantities()
    signal, noise = 36 + 0.2**2 + 0.3**2 + 4.6**2, 0.2**2 + 0.2**2 + 0.6**2
    assert found["sqnr_db"] == pytest.approx(10 * math.log10(signal / noise), abs=1e-4)
    assert found["underflow"] == 1 / 4
    assert found["saturated"] == found["scale_zero"] == found["scale_subnormal"] == 0


def test_saturation_and_scales_by_hand():
    # Scales are maximum / 6 * 448 in E4M3: 448; 74.7 -> 72, so that 1 lies at 6.2; 0.0075, which
    # is subnormal; 0.00075 -> 0; and an empty block, which does not count.
    x = np.zeros((5, 16), np.float32)
    x[:4, 0] = 6, 1, 1e-4, 1e-5
    found = tally(jnp.asarray(x), fp4.TensorSpec(), LAST).quantities()
    assert found["saturated"] == found["underflow"] == 1 / 4
    assert found["scale_zero"] == found["scale_subnormal"] == 1 / 4


def test_rotation_and_padding_keep_the_signal():
    x = normal(1, 7, 37)
    plain, rotated = (tally(x, fp4.TensorSpec(hadamard=on), LAST, KEY) for on in (False, True))
    assert float(rotated.signal) == pytest.approx(float(plain.signal), rel=1e-5)
    q = fp4.fake_quantize(x, fp4.TensorSpec(hadamard=True))
    # What fake_quantize cuts off is the padding's share of the error.
    assert float(jnp.sum((q - x) ** 2)) <= float(rotated.noise) * (1 + 1e-5)


PHANTOM = Slices("phantom", image_size=32, patients=12, slices=4, augment=False)


def config(**changes) -> RunConfig:
    """A tiny CNN on slices."""
    options: dict[str, Any] = {"data": PHANTOM, "arch": "cnn", "recipe": "baseline", "epochs": 1}
    return RunConfig(**{**options, "model_options": blobs.TINY, "batch_size": 8, **changes})


def parts(model: nnx.Module) -> tuple[Any, Any]:
    """Parameters and statistics."""
    return nnx.split(model, nnx.Param, nnx.BatchStat, ...)[1:3]


DOT = Call(fp4nnx.DotGeneral, ((((2,), (0,)), ((), ())),), ())
CONV = Call(
    fp4nnx.ConvGeneralDilated,
    ((2, 2), ((1, 1), (1, 1))),
    (("dimension_numbers", ("NHWC", "HWIO", "NHWC")),),
)
TRANSPOSE = Call(fp4nnx.ConvTransposeOp, ((2, 2), "SAME"), ())
CALLS = {
    "dot": (DOT, (2, 5, 32), (32, 24)),
    "conv": (CONV, (2, 8, 8, 20), (4, 4, 20, 24)),
    "transpose": (TRANSPOSE, (2, 4, 4, 20), (4, 4, 20, 24)),
}


def example(name: str) -> tuple[Call, Tensors]:
    call, x_shape, w_shape = CALLS[name]
    x, w = normal(1, *x_shape), normal(2, *w_shape)
    y = jax.eval_shape(lambda x, w: call(x, w, "baseline"), x, w)
    return call, Tensors(x, w, normal(3, *y.shape))


@pytest.mark.parametrize("name", CALLS)
def test_operands_are_those_that_training_quantizes(name, monkeypatch):
    """The same arrays, blocks and amax as the library's own products hand its quantizer.

    Not the bits: a layer's backward pass draws them by its data, the diagnosis as for one call.
    """
    recipe = fp4.get_recipe("2d+rht+sr")
    call, tensors = example(name)
    seen: dict[str, list[Any]] = {"library": [], "diagnosis": []}

    def watch(module, name, real, into):
        def note(how, x, amax):
            digest = hashlib.sha256(np.asarray(x).tobytes()).hexdigest()
            seen[into].append((*how, digest, float(amax)))

        def spy(x, spec, axes, key=None, amax=None):
            if spec is not None:
                block = axes.contracted % x.ndim if spec.block == (1, 16) else axes.tile
                how = spec.rounding, spec.hadamard, str(block), x.shape
                total = 0 if amax is None else amax
                jax.debug.callback(functools.partial(note, how), x, total)
            return real(x, spec, axes, key, amax)

        monkeypatch.setattr(module, name, spy)

    watch(gemm, "operand", gemm.operand, "library")
    watch(operands, "tally", operands.tally, "diagnosis")
    for measure in (product_sums, operands.operand_sums):
        jax.block_until_ready(jax.jit(measure, static_argnums=(0, 1))(call, recipe, tensors, KEY))
    jax.effects_barrier()
    # The tiles of w serve fprop and dgrad in the library; the diagnosis measures both.
    assert len(seen["library"]) >= 5
    assert set(seen["library"]) == set(seen["diagnosis"])


@pytest.mark.parametrize(
    "name", ["dot", *(pytest.param(n, marks=pytest.mark.slow) for n in list(CALLS)[1:])]
)
def test_the_baseline_has_no_error(name):
    call, tensors = example(name)
    baseline = fp4.get_recipe("baseline")
    for sums in operands.operand_sums(call, baseline, tensors).values():
        found = sums.quantities()
        assert found.pop("sqnr_db") == math.inf
        assert set(found.values()) == {0.0}
    for sums in product_sums(call, baseline, tensors).values():
        assert sums.quantities() == {"cosine": pytest.approx(1), "relative_error": 0.0}


def test_quantized_residuals_are_those_of_fprop():
    call, tensors = example("dot")
    sums = operands.operand_sums(call, fp4.get_recipe("chain_rule"), tensors)
    assert sums["dgrad.w"] is sums["fprop.w"]
    assert sums["wgrad.x"] is sums["fprop.x"]
    assert sums["dgrad.g"].quantities()["sqnr_db"] == math.inf


def test_recorded_tensors_are_those_of_the_model():
    subject = of_run(config(recipe="full"), 3)
    cohort = blobs.cohort(2, 2)
    batch = jnp.asarray(cohort.images), jnp.asarray(cohort.masks)
    params, stats = jax.jit(lambda: parts(subject.build(fp4.get_recipe("baseline"))))()
    calls, (tensors,) = record(subject, "full", params, stats, [batch])
    quantized = fp4nnx.report(nnx.eval_shape(lambda: subject.build(fp4.get_recipe("full"))))
    assert sorted(calls) == sorted(layer.path for layer in quantized.quantized)
    # x, g and the layer's own wgrad give the gradient that autodiff finds in the whole model.
    bind = subject.structure("baseline")
    gradient = jax.jit(jax.grad(lambda p: subject.loss(bind(p, stats), batch)))(params)
    flat = {".".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(gradient)}
    for name, call in calls.items():
        _, backward = jax.vjp(
            lambda w, t=tensors[name], c=call: c(t.x, w, "baseline"), tensors[name].w
        )
        (dw,) = backward(tensors[name].g)
        np.testing.assert_allclose(dw, flat[f"{name}.kernel"][...], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("windowed", [False, True])
def test_logits_are_those_of_the_layer(windowed):
    common: dict[str, Any] = {
        "dropout": 0,
        "init": "torch",
        "dtype": jnp.float32,
        "rngs": nnx.Rngs(0),
    }
    layer: Any = (
        WindowAttention(4, 4, 2, dim=32, heads=2, **common)
        if windowed
        else Attention(32, 2, **common)
    )
    x = normal(1, 3, 16, 32)
    sets = jnp.roll(x.reshape(3, 4, 4, 32), (-2, -2), (1, 2)).reshape(3, 1, 16, 32)
    qkv = layer.qkv(sets if windowed else x)
    v = qkv[..., 64:].reshape(*qkv.shape[:-1], 2, 16)
    p = jax.nn.softmax(logits(qkv, 2, bias_of(layer)))
    y = layer.proj(jnp.einsum("...hqk,...khd->...qhd", p, v).reshape(*qkv.shape[:-1], 32))
    if windowed:
        y = jnp.roll(y.reshape(3, 4, 4, 32), (2, 2), (1, 2)).reshape(3, 16, 32)
    np.testing.assert_allclose(layer(x, Seeds(None)), y, rtol=1e-5, atol=1e-6)


def test_masked_tokens_do_not_count():
    exact = jnp.array([[0.0, 1.0, 2.0, -100.0]])
    found = attention_sums(exact, exact, exact > -50).quantities()
    assert found["levels"] == 3
    assert found["level_share"] == 1
    uniform = attention_sums(exact, jnp.array([[1.0, 1.0, 1.0, -100.0]]), exact > -50)
    assert uniform.quantities()["levels"] == 1
    assert uniform.quantities()["entropy"] == pytest.approx(1)


class OneAttention(nnx.Module):
    """A model that is one attention layer."""

    def __init__(self):
        self.attn = Attention(32, 2, 0, "torch", jnp.float32, nnx.Rngs(0))

    def __call__(self, x):
        return self.attn(x, Seeds(None))


def values(rows, **where) -> list[float]:
    return [r["value"] for r in rows if all(r[key] == value for key, value in where.items())]


def states_of(model: nnx.Module) -> dict[str, Any]:
    return {"init": parts(model)}


def test_a_collapse_of_attention_shows():
    """Tokens that differ by less than FP4's smallest step get one key: a uniform softmax.

    Each block of 16 channels holds one large value, and what tells tokens apart beside it. Rotated
    before it is quantized, a block has no outlier, and tokens stay apart.
    """
    tokens = 16
    x = 0.2 * jnp.sign(normal(1, 2, tokens, 32))
    x = x.at[..., ::16].set(6.0)
    model = OneAttention()
    model.attn.qkv.kernel.set_value(0.5 * normal(2, 32, 96))
    rows = diagnose(
        Subject(
            lambda recipe: fp4nnx.apply_recipe(
                OneAttention(), recipe, keep=r"attn\.proj", verbose=False
            ),
            lambda model, x: jnp.mean(model(x) ** 2),
        ),
        states_of(model),
        ["forward_only", "forward_only+rht"],
        [x],
    )

    def attention(recipe: str, quantity: str) -> float:
        (value,) = values(rows, recipe=recipe, quantity=quantity, layer="attn")
        return value

    assert attention("baseline", "levels") > 0.99 * tokens
    assert attention("baseline", "entropy") < 0.9
    assert attention("forward_only", "levels") == 1
    assert attention("forward_only", "entropy") == pytest.approx(1, abs=1e-5)
    assert attention("forward_only", "shift") > 0.3
    assert attention("forward_only+rht", "levels") > tokens / 2
    assert attention("forward_only+rht", "shift") < attention("forward_only", "shift")
    (lost,) = values(rows, recipe="forward_only", quantity="underflow", of="fprop.x")
    assert lost == 15 / 16


class Stack(nnx.Module):
    """Three convolutions, one after the other."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.convs = nnx.List(
            [nnx.Conv(16, 16, (3, 3), use_bias=False, rngs=rngs) for _ in range(3)]
        )

    def __call__(self, x):
        for conv in self.convs:
            x = conv(x)
        return x


def backward_noise(recipe: str, x: jax.Array, g: jax.Array, draws: int = 4) -> np.ndarray:
    """Noise-to-signal of the layers of a stack, first to last, whose output gradient is g."""
    subject = Subject(
        lambda recipe: fp4nnx.apply_recipe(Stack(), recipe, verbose=False),
        lambda model, batch: jnp.sum(model(batch[0]) * batch[1]),
    )
    data = (*parts(Stack()), [(x, g)])
    forward = gradients(subject, forward_part(fp4.get_recipe(recipe)), *data)
    layers = [f"convs.{i}" for i in range(3)]
    found = gradient_noise(subject, recipe, *data, {"": forward}, layers, draws)
    for quantities in found.values():
        parts_of_it = quantities["bias"] + quantities["variance"]
        assert quantities["noise_to_signal"] == pytest.approx(parts_of_it)
    return np.array([found[layer]["noise_to_signal"] for layer in layers])


def test_gradient_noise_shows_where_small_gradients_underflow():
    """One large gradient in each block, and many small ones of one sign, which `full` loses.

    Together the small ones are the signal. Stochastic rounding keeps their mean, and the rotation
    spreads the large ones. What is left grows from the last layer to the first, the way that the
    gradient runs.
    """
    x = 1 + 0.3 * normal(1, 4, 16, 16, 16)
    large = jnp.sign(normal(2, 4, 16, 16, 16)) * jnp.eye(16)[None, None]
    g = jnp.where(large == 0, jnp.float32(0.03), large)
    full, advanced = (backward_noise(recipe, x, g) for recipe in ("full", "2d+rht+sr"))
    assert (full > 0.5).all()
    assert (advanced < 0.2).all()
    assert advanced[0] > advanced[1] > advanced[2]


@pytest.mark.slow  # the test above sees it, too
def test_gradient_noise_grows_with_depth():
    noise = backward_noise("full", normal(1, 2, 8, 8, 16), normal(2, 2, 8, 8, 16))
    assert 0.1 > noise[0] > noise[1] > noise[2] > 0.01


def test_bias_and_variance_are_estimated_without_bias():
    rng = np.random.default_rng(0)
    g, shift = rng.normal(size=1000), 0.1 * rng.normal(size=1000)
    noisy = ({"a.kernel": g + shift + 0.5 * rng.normal(size=1000)} for _ in range(20))
    terms = _deviations(noisy, {"": {"a.kernel": g}}, ["a"])["", "a"]
    signal, bias, variance = terms
    assert signal == pytest.approx(g @ g)
    assert variance / 1000 == pytest.approx(0.25, rel=0.05)
    # The mean of 20 draws deviates by 0.5 / sqrt(20), more than the bias of 0.1.
    assert bias / 1000 == pytest.approx(shift @ shift / 1000, abs=0.004)


@pytest.fixture
def command(monkeypatch, capsys):
    """command("folder", "--recipes", "1") -> (exit code, standard output, standard error)"""

    def call(*arguments: object) -> tuple[int, str, str]:
        module = importlib.import_module("fp4jax.cli.verbs.diagnose")
        monkeypatch.setattr(sys, "argv", ["diagnose", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        code = 0
        try:
            module.VERB.run()
        except SystemExit as error:
            code = int(error.code or 0)
        return code, *capsys.readouterr()

    return call


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Of a baseline run on the phantom."""
    return finished(tmp_path_factory.mktemp("runs"), config(), PHANTOM.open(Source()))


@pytest.fixture(scope="module")
def volumes(tmp_path_factory) -> Data:
    """Four patients, as NIfTI files."""
    root = tmp_path_factory.mktemp("volumes")
    phantom.write_nifti(root / "all", patients=4, slices=16, image_size=16)
    task = Volumes(patch_size=(8, 8, 8), steps=3, val_share=0.25, test_share=0.25)
    return task.open(Source(root / "all", root / "cache"))


UNET = {"channels": (4, 8), "strides": (2,)}


def volume_config(data: Any, **changes) -> RunConfig:
    return RunConfig(data.task, arch="unet", model_options=UNET, batch_size=2, epochs=2, **changes)


def test_batches_are_of_training_patients_and_of_no_epoch_that_training_had(folder):
    run, data = read_trained(folder), PHANTOM.open(Source())
    chosen = patients_of(run, data)
    assert run.split is not None
    assert chosen.patients == run.split.train
    assert str(chosen) == f"{len(run.split.train)} patients that it was trained on"
    own = data.cohort.select(chosen.patients).images
    found = batches_of(run.config, data, chosen.patients, 2)
    for images, masks in found:
        assert (images.shape, masks.shape) == ((8, 32, 32, 3), (8, 32, 32))
        assert all((own == image).all((1, 2, 3)).any() for image in np.asarray(images))
    first = next(data.feed(run.config, chosen.patients, run.config.seed).batches(1))
    assert not np.array_equal(first.images, found[0][0])


def test_of_other_data_all_patients_are_taken(folder):
    """None of those that the run was trained on has to be there."""
    run, other = read_trained(folder), PHANTOM.bind(blobs.cohort(3, 2))
    other.channels = run.channels
    chosen = patients_of(run, other)
    assert chosen.patients == ("p00", "p01", "p02")
    assert "of other data" in str(chosen)
    other.channels = ("a", "b", "c")
    with pytest.raises(ValueError, match="have the channels a, b, c"):
        patients_of(run, other)


def test_batches_of_volumes(volumes, tmp_path):
    """By the split in the folder: another one than the configuration's would be."""
    config = volume_config(volumes)
    names = volumes.patients
    split = fp4.data.Split(names[:1], names[1:2], names[2:], "by hand")
    run = read_trained(finished(tmp_path, config, volumes, split))
    chosen = patients_of(run, volumes)
    assert chosen.patients == names[:1] != volumes.split(config).train
    ((images, targets),) = batches_of(config, volumes, chosen.patients, 1)
    assert images.shape == (2, 8, 8, 8, 4)
    assert targets.shape == (2, 8, 8, 8, 3)


@pytest.mark.slow  # two gradients of a network, whose parts the others test
def test_a_run_of_volumes_is_diagnosed(volumes, tmp_path):
    path = finished(tmp_path, volume_config(volumes, recipe="full"), volumes)
    rows = diagnose_run(path, volumes, states=["best"], batches=1)
    assert (path / "diagnosis.png").read_bytes()[:4] == b"\x89PNG"
    assert {row["recipe"] for row in rows} == {"full"}
    layers = {row["layer"] for row in rows} - {"total"}
    assert layers
    assert len(values(rows, quantity="sqnr_db")) == 6 * len(layers)
    assert all(5 < value < 60 for value in values(rows, quantity="sqnr_db"))


def test_the_loss_is_that_of_the_run(volumes):
    """Of several regions, and of classes that exclude each other."""
    images = normal(1, 2, 8, 8, 8, 4)
    targets = jnp.zeros((2, 8, 8, 8, 3), jnp.uint8).at[:, :4, :, :, 0].set(1)
    for loss, outputs in (("bce_dice", 3), ("ce_dice", 4)):
        subject = of_run(volume_config(volumes, loss=loss), 4, 3)

        def both(subject=subject):
            model: Any = subject.build(fp4.get_recipe("baseline"))
            return model(images), subject.loss(model, (images, targets))

        logits, value = jax.eval_shape(both)
        assert logits.shape == (2, 8, 8, 8, outputs)
        assert value.shape == ()


@pytest.mark.slow  # two states of a network under two recipes, whose parts the others test
def test_the_command_writes_a_table_and_a_picture(folder, command):
    code, out, err = command(folder, "--recipes", "6", "--draws", "2")
    assert (code, err) == (0, "")
    assert out.rstrip().endswith(f"{folder / 'diagnosis.csv'}\n{folder / 'diagnosis.png'}")
    assert "decoders.0" in out
    assert (folder / "diagnosis.png").read_bytes()[:4] == b"\x89PNG"
    with (folder / "diagnosis.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["run", "state", "recipe", "layer", "quantity", "of", "value"]
    assert {row["run"] for row in rows} == {folder.name}
    assert {row["state"] for row in rows} == {"init", "best"}
    assert {row["recipe"] for row in rows} == {"baseline", "sr"}
    assert {row["layer"] for row in rows} == {"decoders.0", "total"}
    ratios = [float(row["value"]) for row in rows if row["quantity"] == "sqnr_db"]
    assert len(ratios) == 12
    assert all(10 < value < 40 for value in ratios)


def test_which_recipes_a_run_is_diagnosed_under():
    def names(config, asked=()):
        return [recipe.name for recipe in recipes_for(config, asked)]

    full = config(recipe="full")
    assert names(config()) == ["full", "2d+rht+sr"]
    assert names(full) == ["full"]
    assert names(full, (5, "sr", "5")) == ["2d+rht+sr", "sr"]
    own = dataclasses.replace(fp4.get_recipe("full"), name="own")
    assert recipes_for(config(recipe=own)) == [own]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--recipes", "fp5"], "known names"),
        (["--recipes", "0"], "nothing to measure"),
        (["--batches", "0"], "at least 1"),
        (["--batches", "99"], "patients make"),
        (["--states", "last"], "last"),
    ],
)
def test_what_is_asked_wrongly_is_one_line(arguments, says, folder, command):
    code, _, err = command(folder, *arguments)
    assert code == 2
    assert says in err
    assert err.startswith("error: ")
    assert len(err.strip().splitlines()) == 1


def test_of_its_training_a_run_keeps_the_best_epoch_alone(folder):
    with pytest.raises(ValueError, match="states has last; allowed: init, best"):
        diagnose_run(folder, blobs.cohort(2, 2), states=["last"])


def test_a_folder_without_a_run_is_one_line(tmp_path, command):
    code, _, err = command(tmp_path)
    assert (code, "holds no run" in err) == (2, True)
    assert len(err.strip().splitlines()) == 1


def test_a_layer_that_runs_twice_is_refused():
    class Twice(Stack):
        def __call__(self, x):
            return self.convs[0](self.convs[0](x))

    subject = Subject(
        lambda recipe: fp4nnx.apply_recipe(Twice(), recipe, verbose=False),
        lambda model, x: jnp.sum(model(x)),
    )
    with pytest.raises(ValueError, match="runs twice"):
        diagnose(subject, states_of(Twice()), ["full"], [normal(1, 1, 4, 4, 16)])
