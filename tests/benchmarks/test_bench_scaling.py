"""Growth of steps: points, marks, the table and figure; a toy run, and PyTorch's sizes."""

import dataclasses
import json

import pytest

from benchmarks import bench_scaling, plots, power_fit, scaling_peer, scaling_tables
from benchmarks.bench_scaling import Args, Point, points
from benchmarks.networks import NETWORKS
from benchmarks.scaling_tables import Growth


def growth(exponent, at_most=1.0, sizes=(1, 2, 4)):
    seconds = [size**exponent for size in sizes]
    powers = {"baseline": power_fit.fit(sizes, seconds)}
    return Growth("ViT", "batch", sizes, {"baseline": seconds}, powers, at_most)


def test_points():
    args = Args(batches=(4, 1), sides=(128, 64, 96), sides_3d=(32, 64, 96), scales=("4m", "500k"))
    batches = points(args, NETWORKS["vit"], "batch")
    assert batches == [Point(128, 1, "500k"), Point(128, 4, "500k")]
    # Swin takes multiples of 64, a volume's batch is 1
    sides = points(args, NETWORKS["swin"], "side")
    assert sides == [Point(64, 2, "500k"), Point(128, 2, "500k")]
    volumes = points(args, NETWORKS["swin_unetr_3d"], "side")
    assert volumes == [Point(side, 1, "12") for side in (64, 96)]
    scales = points(args, NETWORKS["swin"], "size")
    assert scales == [Point(256, 2, "500k"), Point(256, 2, "4m")]
    features = points(args, NETWORKS["swin_unetr_3d"], "size")
    assert features == [Point(64, 1, size) for size in ("12", "24", "36")]
    assert bench_scaling.size_of(NETWORKS["swin"], "side", sides[0]) == 64
    # the paper's
    assert bench_scaling.size_of(NETWORKS["cnn"], "size", scales[0]) == 530_753


def test_powers_beyond_what_operations_have():
    assert not growth(1.1).beyond("baseline")
    assert growth(1.2).beyond("baseline")
    assert not growth(1.2, at_most=2).beyond("baseline")
    assert growth(1.5, sizes=(1, 2)).beyond("baseline")
    # ViT attends to all tokens
    limits = [
        bench_scaling.at_most(NETWORKS[name], axis)
        for name, axis in (("vit", "tokens"), ("swin", "tokens"), ("swin_unetr_3d", "side"))
    ]
    assert limits == [2, 1, 3]


def test_table_and_figure(tmp_path, capsys):
    found = [growth(1.5), dataclasses.replace(growth(1.0), network="CNN", note="no torch")]
    for one in found:
        scaling_tables.show(one)
    out = capsys.readouterr().out
    assert "1.50 ± 0.00" in out
    assert out.count("beyond") == 1
    assert "CNN: training step, ms, by batch; no torch" in out
    plots.growths(tmp_path / "new" / "toy.png", found)
    assert (tmp_path / "new" / "toy.png").stat().st_size > 1000


@pytest.mark.slow  # two programs of a network
def test_a_toy_run(tmp_path):
    files = tmp_path / "toy.json", tmp_path / "toy.png"
    args = Args(
        networks=("vit",),
        axes=("side",),
        recipes=("0",),
        sides=(16, 32),
        rounds=1,
        torch=False,
        json=files[0],
        plot=files[1],
    )
    bench_scaling.main(args)
    sides, tokens = json.loads(files[0].read_text())["tables"]
    assert (sides["axis"], sides["sizes"]) == ("side", [16, 32])
    assert (tokens["axis"], tokens["sizes"]) == ("tokens", [1, 4])
    slopes = [one["powers"]["baseline"]["exponent"] for one in (sides, tokens)]
    assert slopes[0] == pytest.approx(2 * slopes[1])
    assert sides["note"] == "left out"
    assert files[1].stat().st_size > 1000


@pytest.mark.slow  # nine models, though none is computed
@pytest.mark.parametrize("arch", ["cnn", "vit", "swin"])
def test_peers_have_our_sizes(arch):
    """PyTorch's models have as many parameters as ours, at every scale."""
    pytest.importorskip("torch")
    from benchmarks import torch_models

    network = NETWORKS[arch]
    for scale in ("500k", "4m", "15m"):
        options = network.size_options(scale)
        model = torch_models.create(arch, network.sizes_side, **options)
        assert sum(p.numel() for p in model.parameters()) == network.parameters(scale)


def test_peers_step():
    """Each place has its own model, made when it is called."""
    pytest.importorskip("torch")
    options = NETWORKS["vit"].size_options("500k")
    shape = scaling_peer.Shape("vit", options, 2, 32, 1, 3, 1)
    calls = scaling_peer.steps([shape, shape._replace(batch=2)])
    losses = [calls[name]() for name in ("0", "0", "1", "0")]
    assert losses[0] > 0
    assert losses[0] != losses[1]


@pytest.mark.slow  # imports MONAI
def test_monai_steps():
    """The network of a feature size is MONAI's: as many parameters; and its step runs."""
    nets = pytest.importorskip("monai.networks.nets.swin_unetr")
    network = NETWORKS["swin_unetr_3d"]
    options = network.size_options("12")
    inputs, outputs = network.channels
    model = nets.SwinUNETR(in_channels=inputs, out_channels=outputs, spatial_dims=3, **options)
    assert sum(p.numel() for p in model.parameters()) == network.parameters("12")
    shape = scaling_peer.Shape(network.arch, options, 3, 64, 1, inputs, outputs)
    assert scaling_peer.train_step(shape)() > 0


def test_missing_packages(monkeypatch):
    def version(name):
        raise scaling_peer.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(scaling_peer.importlib.metadata, "version", version)
    assert scaling_peer.missing("cnn") == "torch"
    note = bench_scaling.no_peer(Args(), NETWORKS["cnn"])
    assert note == "not timed: torch is not installed"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"networks": ("resnet",)}, "networks has resnet; allowed: cnn"),
        ({"axes": ("depth",)}, "axes has depth; allowed: batch"),
        ({"rounds": 0}, "rounds is 0"),
        ({"batches": (2,)}, "batch has less than two sizes"),
        ({"scales": ("500k", "1b")}, "size has less than two sizes"),
        ({"sides": (64, 96), "networks": ("swin",)}, "side has less than two sizes"),
        ({"recipes": ("nvfp3",)}, "nvfp3"),
    ],
)
def test_wrong_options(option, message):
    with pytest.raises(ValueError, match=message):
        Args(**option)


def test_sides_of_networks():
    with pytest.raises(ValueError, match="multiple of 64"):
        NETWORKS["swin"].config(side=96)
    config = NETWORKS["swin_unetr_3d"].config()
    images, _ = config.data.batch(config, *NETWORKS["swin_unetr_3d"].channels)
    assert images.shape == (1, 64, 64, 64, 4)
