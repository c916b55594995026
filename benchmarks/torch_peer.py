"""A training step of PyTorch in a process of its own, which takes turns with this one.

The child waits on a pipe between its steps, so two pools of threads never compute at once. Only
the child imports torch.
"""

import importlib.metadata
import multiprocessing
import os
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

LAYOUTS = ("channels_last", "contiguous")


def version() -> str | None:
    """Of the torch that is installed, None without it."""
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return None


class Peer:
    """Steps of one architecture on one batch, a model and an optimizer per memory layout.

    Args:
        arch: cnn, vit or swin.
        layouts: of ``LAYOUTS``.
        images: (b, h, w, 3) float32, normalised.
        masks: (b, h, w), 0 or 1.

    Raises:
        RuntimeError: if the child ends early; its traceback is on stderr.
    """

    def __init__(self, arch: str, layouts: Sequence[str], images: np.ndarray, masks: np.ndarray):
        context = multiprocessing.get_context("spawn")
        self._pipe, end = context.Pipe()
        arguments = (end, arch, tuple(layouts), images, masks)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        end.close()
        self.threads: int = self._receive()

    def step(self, layout: str) -> float:
        """Takes one step and returns its loss when it is done."""
        self._pipe.send(layout)
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


def _serve(pipe: Connection, arch: str, layouts, images, masks) -> None:
    import torch

    from benchmarks import torch_models

    torch_models.check_sizes()
    torch.manual_seed(0)
    torch.set_num_threads(_cores())
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    y = torch.from_numpy(masks.astype(np.float32))[:, None]
    steps = {layout: train_step(arch, x, y, layout) for layout in layouts}
    pipe.send(torch.get_num_threads())
    while True:
        try:
            layout = pipe.recv()
        except EOFError:
            return
        pipe.send(steps[layout]())


def loss(logits, mask):
    """Binary cross entropy + Tversky (0.3 FP, 0.7 FN) of logits and masks (n, 1, h, w)."""
    import torch

    bce = torch.nn.functional.binary_cross_entropy_with_logits(logits, mask)
    p, y = torch.sigmoid(logits).flatten(1), mask.flatten(1)
    tp, fp, fn = (p * y).sum(1), (p * (1 - y)).sum(1), ((1 - p) * y).sum(1)
    index = (tp + 1e-5) / (tp + 0.3 * fp + 0.7 * fn + 1e-5)
    return bce + 1 - index.mean()


def train_step(arch: str, x: Any, y: Any, layout: str) -> Callable[[], float]:
    """Forward, loss, backward, clipping and update, on a fresh model; returns the loss."""
    import torch

    from benchmarks import torch_models

    model = torch_models.create(arch, x.shape[-1]).train()
    if layout == "channels_last":
        model = model.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
    parameters = list(model.parameters())
    if arch == "cnn":
        optimizer = torch.optim.Adamax(parameters, lr=5e-4)
    else:
        # One kernel for all parameters: torch's fastest.
        optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=1e-4, fused=True)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        value = loss(model(x), y)
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        return value.item()

    return step
