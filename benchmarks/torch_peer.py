"""Calls of PyTorch in a process of its own, which takes turns with this one.

The child waits on a pipe between its steps, so two pools of threads never compute at once. Only
the child imports torch.
"""

import functools
import importlib.metadata
import multiprocessing
import os
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

LAYOUTS = ("channels_last", "contiguous")

#: Functions by name, as a child serves them.
Calls = dict[str, Callable[[], float]]


def version() -> str | None:
    """Of the torch that is installed, None without it."""
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return None


class Peer:
    """Functions in a process that has torch.

    Args:
        make: a function of a module, called there with ``arguments``; gives functions by name,
            each of which ends when its work is done and returns a number.
        arguments: arrays, names and numbers.

    Raises:
        RuntimeError: if the child ends early; its traceback is on stderr.
    """

    def __init__(self, make: Callable[..., Calls], *arguments: Any):
        context = multiprocessing.get_context("spawn")
        self._pipe, end = context.Pipe()
        self._process = context.Process(target=_serve, args=(end, make, arguments), daemon=True)
        self._process.start()
        end.close()
        self.threads: int = self._receive()

    def call(self, name: str) -> float:
        """Calls one of the functions and returns its number, such as a loss."""
        self._pipe.send(name)
        return self._receive()

    def close(self) -> None:
        """Ends the child."""
        self._pipe.close()
        self._process.join()

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _receive(self) -> Any:
        try:
            return self._pipe.recv()
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            raise RuntimeError(f"the process with torch ended early, exit code {code}.") from None


def _cores() -> int:
    """Cores that this process may use, which XLA takes, too."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _serve(pipe: Connection, make: Callable[..., Calls], arguments: tuple) -> None:
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(_cores())
    calls = make(*arguments)
    pipe.send(torch.get_num_threads())
    while True:
        try:
            name = pipe.recv()
        except EOFError:
            return
        pipe.send(calls[name]())


def loss(logits, mask):
    """Binary cross entropy + Tversky (0.3 FP, 0.7 FN) of logits and masks (n, 1, *space)."""
    import torch

    bce = torch.nn.functional.binary_cross_entropy_with_logits(logits, mask)
    p, y = torch.sigmoid(logits).flatten(1), mask.flatten(1)
    tp, fp, fn = (p * y).sum(1), (p * (1 - y)).sum(1), ((1 - p) * y).sum(1)
    index = (tp + 1e-5) / (tp + 0.3 * fp + 0.7 * fn + 1e-5)
    return bce + 1 - index.mean()


def training(arch: str, layouts: Sequence[str], images: np.ndarray, masks: np.ndarray) -> Calls:
    """Training steps of one architecture on one batch, a model and an optimizer per layout.

    Args:
        arch: cnn, vit or swin.
        layouts: of ``LAYOUTS``.
        images: (b, h, w, 3) float32, normalised.
        masks: (b, h, w), 0 or 1.
    """
    import torch

    from benchmarks import torch_models

    torch_models.check_sizes()
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    y = torch.from_numpy(masks.astype(np.float32))[:, None]
    return {
        layout: train_step(torch_models.create(arch, x.shape[-1]), x, y, layout, optimizer_of(arch))
        for layout in layouts
    }


def optimizer_of(arch: str) -> Callable[[Any], Any]:
    """What trains an architecture, from its parameters."""
    import torch

    if arch == "cnn":
        return functools.partial(torch.optim.Adamax, lr=5e-4)
    # One kernel for all parameters: torch's fastest.
    return functools.partial(torch.optim.AdamW, lr=1e-4, weight_decay=1e-4, fused=True)


def train_step(
    model: Any, x: Any, y: Any, layout: str, make_optimizer: Callable[[Any], Any]
) -> Callable[[], float]:
    """Forward, loss, backward, clipping and update of a model; returns the loss."""
    import torch

    model, x = arranged(model.train(), x, layout)
    parameters = list(model.parameters())
    optimizer = make_optimizer(parameters)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        value = loss(model(x), y)
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        return value.item()

    return step


def arranged(model: Any, x: Any, layout: str) -> tuple[Any, Any]:
    """A model and its input in a memory layout."""
    import torch

    if layout == "contiguous":
        return model, x
    last = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
    return model.to(memory_format=last), x.contiguous(memory_format=last)
