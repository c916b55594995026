"""The two conventions as targets."""

import functools

from fp4jax.deploy.checkpoints.conventions import CONVENTIONS
from fp4jax.deploy.checkpoints.writing import write
from fp4jax.deploy.targets import Target, register_target

_SUMMARIES = {
    "compressed-tensors": "a folder as compressed-tensors has it: vLLM and what follows",
    "modelopt": "a folder as Model-Optimizer exports it: TensorRT-LLM, vLLM, SGLang",
}


def register() -> None:
    """Makes the targets known."""
    for name, summary in _SUMMARIES.items():
        register_target(Target(name, summary, _writer(name), static=True))


@functools.cache
def _writer(name: str):
    """The same function each time, so that registering twice is no conflict."""
    return functools.partial(write, CONVENTIONS[name])
