"""The benchmarks run, at toy sizes: what they print is not tested."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import (
    bench_inference,
    bench_matmul,
    bench_ops,
    bench_quantize,
    bench_swin_unetr,
    bench_train,
    timing,
    torch_peer,
)
from fp4jax import kernels, models
from fp4jax.kernels.block_scaled_matmul.arg_specs import Layer, weights


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_quantizers_and_peers(tmp_path):
    cases = bench_quantize.cases(32)
    results = timing.measure(cases, rounds=2)
    assert [r.name for r in results] == [c.name for c in cases]
    assert results[0].ratio == 1
    timing.show("toy", results, elements=32**2)
    timing.save(tmp_path / "new" / "toy.json", {"toy": results})
    saved = json.loads((tmp_path / "new" / "toy.json").read_text())
    assert saved["machine"]["jax"] == jax.__version__
    assert len(saved["tables"]["toy"]) == len(cases)
    assert len(list((tmp_path / "new").iterdir())) == 1  # nothing half-written is left


@pytest.mark.parametrize("channels", [24, 18])
def test_channels_that_are_no_whole_blocks(channels):
    padded, own = (jax.jit(c.function)(*c.args) for c in bench_quantize.channel_cases(channels, 8))
    np.testing.assert_array_equal(padded, own)


def test_operations(monkeypatch):
    name = next(iter(bench_ops.OPS))
    _, _, op = bench_ops.OPS[name]
    monkeypatch.setitem(bench_ops.OPS, name, ((16, 32), (32, 16), op))
    results = timing.measure(bench_ops.op_cases(name, ("baseline", "2d+rht+sr")), rounds=1)
    assert [r.name for r in results] == ["jax.lax", "baseline", "2d+rht+sr"]


def test_products(monkeypatch, tmp_path):
    for name in ("_BEYOND_CACHE", "_COPIED"):
        monkeypatch.setattr(bench_matmul, name, {"cpu": 2**16, "gpu": 2**16})
    tiny = Layer("tiny", 32, 16)
    monkeypatch.setattr(bench_matmul, "LAYERS", (tiny,))
    files = tmp_path / "new" / "toy.json", tmp_path / "new" / "toy.png"
    args = bench_matmul.Args(
        rounds=1, rows=(2,), layers=("tiny",), quantized=True, json=files[0], plot=files[1]
    )
    bench_matmul.main(args)
    saved = json.loads(files[0].read_text())
    ((title, rows),) = saved["tables"].items()
    assert title.startswith("tiny: (2, 32) @ (32, 16), W4A4")
    names = ["bfloat16", "XLA: dequantize, dot", "auto", "decoded once"]
    assert [r["name"] for r in rows] == names
    assert {"device", "copy GB/s"} <= saved["machine"].keys()
    assert files[1].stat().st_size > 1000
    # every copy of the weights is multiplied
    a, b = jnp.ones((2, 32)), weights(tiny)
    call = bench_matmul.chained(kernels.scaled_matmul, a, [b, b])
    expected = kernels.scaled_matmul(a, b)
    np.testing.assert_allclose(call(a, b, b), [expected, expected], rtol=1e-5)


@pytest.mark.slow  # five programs of a network
def test_inference(monkeypatch, tmp_path):
    small = functools.partial(models.create, stages=2, channels=16)
    monkeypatch.setattr(models, "create", small)
    file, plot = tmp_path / "toy.json", tmp_path / "new" / "toy.png"
    args = bench_inference.Args(
        arch=("cnn",), batch=(1,), rounds=1, image_size=16, json=file, plot=plot
    )
    bench_inference.main(args)
    saved = json.loads(file.read_text())
    ((title, rows),) = saved["tables"].items()
    assert title == "cnn 500k, inference, batch 1, 16 pixels a side"
    names = ["float32", "bfloat16", "fake-quantized", "packed", "packed, bfloat16"]
    assert [r["name"] for r in rows] == names
    sizes = {r["name"]: (r["MB"], r["file MB"]) for r in rows}
    for packed in names[-2:]:
        assert all(a < b for a, b in zip(sizes[packed], sizes["bfloat16"], strict=True))
    assert saved["machine"]["device"]
    assert plot.stat().st_size > 1000


@pytest.mark.parametrize(
    ("args", "option", "message"),
    [
        (bench_matmul.Args, {"rounds": 0}, "rounds is 0"),
        (bench_matmul.Args, {"rows": (0,)}, "rows is"),
        (bench_matmul.Args, {"layers": ("unknown",)}, "layers has 'unknown'"),
        (bench_inference.Args, {"arch": ("resnet",)}, "arch has resnet"),
        (bench_inference.Args, {"scale": ("1b",)}, "scale has 1b"),
        (bench_inference.Args, {"batch": (0,)}, "at least 1"),
        (bench_inference.Args, {"recipe": "baseline"}, "quantizes no weights"),
    ],
)
def test_wrong_options(args, option, message):
    with pytest.raises(ValueError, match=message):
        args(**option)


# Four programs of a network of 500k parameters; the test below has one.
@pytest.mark.slow
@pytest.mark.parametrize("scan", [0, 2])
def test_training_steps(scan, tmp_path):
    args = bench_train.Args(
        arch=("cnn",),
        rounds=2,
        recipes=("5",) if scan else (),
        seeds=(1, 2),
        image_size=64,
        batch_size=2,
        torch=False,
        scan=scan,
        json=tmp_path / "toy.json",
    )
    bench_train.main(args)
    saved = json.loads((tmp_path / "toy.json").read_text())
    (rows,) = saved["tables"].values()
    names = ["baseline", "baseline, augmented", *args.recipes, "baseline, seeds: 1"]
    assert [r["name"] for r in rows] == [*names, "baseline, seeds: 2", "torch"]
    assert all(r["images/s"] > 0 and r["temp MB"] > 1 for r in rows[:-1])
    assert rows[-1]["median_ms"] is None
    assert "single runs" in rows[-2]["note"]
    assert {"torch", "flax", "load average"} <= saved["machine"].keys()


def test_training_steps_learn():
    """What is timed is training: the state goes on from call to call."""
    args = bench_train.Args(image_size=64, batch_size=2)
    config = bench_train.config_of(args, "cnn")
    batch = bench_train.sample(config)
    assert set(np.unique(np.asarray(batch.targets))) == {0, 1}
    run = bench_train.Compiled(config, batch, scan=0).runner(2)
    losses = np.array([run() for _ in range(12)])
    assert losses.shape == (12, 2)
    assert (losses[-3:].mean(0) < losses[:3].mean(0)).all()


def test_a_batch_is_what_the_step_of_its_task_takes():
    """Traced, not computed: with and without augmentation, slices and volumes, lanes and one."""
    args = bench_train.Args(image_size=64, batch_size=2, patch_size=16)
    for arch, lanes in (("cnn", None), ("unet", 2)):
        config = bench_train.augmented(bench_train.config_of(args, arch))
        batch = bench_train.sample(config)
        assert set(np.unique(np.asarray(batch.targets))) == {0, 1}
        compiled = bench_train.Compiled(config, batch, 2, lanes)
        assert compiled.steps == 2
    assert bench_train.size_of(config) == "batch 2, 16 x 16 x 16"


@pytest.mark.parametrize("dims", [2, 3])
def test_swin_unetr_takes_its_problem(dims):
    """Traced, not computed."""
    problem = bench_swin_unetr.Problem(dims, features=12, side=64, batch=1, inputs=4, outputs=3)
    program = problem.program("baseline", "float32")
    images, targets = problem.sample()
    state = program.abstract()
    logits = jax.eval_shape(program.predict, (state.params, state.stats), images)
    assert logits.shape == targets.shape == (1, *[64] * dims, 3)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"arch": ("resnet",)}, "arch has resnet"),
        ({"patch_size": 20}, "multiple of 8"),
        ({"image_size": 100}, "multiple of 64"),
        ({"rounds": 0}, "rounds is 0"),
        ({"seeds": (0,)}, "seeds is"),
        ({"scan": -1}, "scan is -1"),
        ({"recipes": ("nvfp3",)}, "nvfp3"),
    ],
)
def test_training_steps_wrong_options(option, message):
    assert bench_train.Args(recipes=("5", "2d+rht+sr")).recipes == ("2d+rht+sr",)
    with pytest.raises(ValueError, match=message):
        bench_train.Args(**option)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("arch", ["cnn", "vit", "swin"])
def test_torch_models_equal_the_reference(arch, golden):
    """The peers compute what the paper's models do."""
    torch = pytest.importorskip("torch")
    from benchmarks import torch_models

    torch_models.check_sizes()
    arrays = golden(f"ref_{arch}_matched_500k.npz")
    named = {
        key.split(".", 1)[1]: torch.from_numpy(arrays[key])
        for key in arrays.files
        if key.startswith(("param.", "buffer."))
    }
    model = torch_models.create(arch).eval()
    model.load_state_dict(named, strict=True)
    with torch.no_grad():
        logits = model(torch.from_numpy(arrays["x"]).float())
        np.testing.assert_allclose(logits.numpy(), arrays["logits"], rtol=0, atol=3e-4)
        mask = torch.from_numpy(arrays["train_mask"]).float()[:, None]
        loss = torch_peer.loss(model(torch.from_numpy(arrays["train_x"]).float()), mask)
    # The file's logits are limited to +-20, which only the CNN's exceed.
    tolerance = 2e-3 if arch == "cnn" else 1e-5
    np.testing.assert_allclose(loss, arrays["grad_eval.loss"][0], rtol=tolerance)


def test_torch_takes_turns():
    pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, 64, 64, 3)).astype(np.float32)
    masks = (images[..., 0] > 1).astype(np.uint8)
    for arch, layouts in (("cnn", torch_peer.LAYOUTS), ("swin", ("contiguous",))):
        with torch_peer.Peer(torch_peer.training, arch, layouts, images, masks) as peer:
            assert peer.threads >= 1
            losses = [[peer.call(layout) for layout in layouts] for _ in range(3)]
        assert np.isfinite(losses).all()
        assert np.ptp(losses) > 0
    with pytest.raises(RuntimeError, match="ended early"):
        torch_peer.Peer(torch_peer.training, "unet", ("contiguous",), images, masks)
