"""What each instruction of a compiled training step is for: product, quantizer, copy, norm, ...

An instruction is known by its opcode, by the names of ``jax.named_scope`` around it (products and
quantizers of fp4jax have some) and by the source lines that it comes from. XLA fuses what has
different purposes: a fusion with a product is one; a fusion that moves data, and computes next to
nothing, is a copy; of any other, each instruction inside counts by the elements that it reads or
writes, and data movement does not. That is a guess: a logarithm is not dearer than a sum.
"""

import re
from collections import Counter
from collections.abc import Iterator

from benchmarks.hlo_text import Instruction, Module

DOT, CONVOLUTION = "products: dots", "products: convolutions"
RESCALED = "products: scales, sums of taps"
QUANTIZERS, HADAMARD = "quantizers", "quantizers: rotations as products"
COPIES = {place: f"copies: {place}" for place in ("quantizers", "products", "model, XLA's own")}
NORMS, LOSS, OPTIMIZER = "norms", "loss", "optimizer, clipping"
MODEL = "activations, softmax, dropout, sums"
OTHER = "keys, input, other"
#: All classes, in the order of the tables.
CLASSES = (
    DOT,
    CONVOLUTION,
    RESCALED,
    QUANTIZERS,
    HADAMARD,
    *COPIES.values(),
    NORMS,
    MODEL,
    LOSS,
    OPTIMIZER,
    OTHER,
)

#: Instructions that run others, which are seen themselves.
CONTAINERS = ("call", "conditional", "while")
_FREE = "after-all bitcast constant get-tuple-element iota parameter partition-id tuple"
_MOVING = (
    "broadcast concatenate copy copy-done copy-start dynamic-slice dynamic-update-slice gather pad "
    "reshape reverse scatter slice transpose"
)
#: A fusion that computes with less than this part of what it moves is a copy: indices of a loop.
_NEXT_TO_NOTHING = 0.1
_FREE, _MOVING = frozenset(_FREE.split()), frozenset(_MOVING.split())
# In the text of op_name a scope stands between "/", "(" and ")".
_QUANTIZER = re.compile(r"(?<![\w.])fp4_(quantize|keys)(?![\w.])")
_PRODUCT = re.compile(r"(?<![\w.])(?:[\w*]+_)?(fprop|dgrad|wgrad)(?![\w.])")
# By file and function of the source.
_SOURCES = (
    (re.compile(r"fp4jax/losses/"), LOSS),
    (
        re.compile(
            r"/optax/|fp4jax/train/optimizer\.py|train/program\.py \S*_take\.<locals>\.<lambda>"
        ),
        OPTIMIZER,
    ),
    (re.compile(r"nnx/nn/normalization\.py|fp4jax/models/norms\.py"), NORMS),
    (re.compile(r"fp4jax/(nnx/keys|data/\w+|train/(slices|volumes)/\w+)\.py"), OTHER),
)


def shares(module: Module) -> dict[str, dict[str, float]]:
    """For every instruction of a module: how much of its time belongs to which class.

    Shares of one instruction add up to 1.
    """
    operands = module.instructions
    return {name: _shares(module, i) for name, i in operands.items() if i.opcode not in _FREE}


def _shares(module: Module, instruction: Instruction) -> dict[str, float]:
    if instruction.opcode != "fusion":
        return {class_of(instruction): 1.0}
    weights: Counter[str] = Counter()
    moved: Counter[str] = Counter()
    for inside, size in _inside(module, instruction):
        found = class_of(inside)
        if found in (DOT, CONVOLUTION, HADAMARD):
            return {found: 1.0}
        (moved if inside.opcode in _MOVING else weights)[found] += size
    if weights.total() < _NEXT_TO_NOTHING * moved.total():
        weights.clear()
    for found in (weights, moved):
        # Instructions that XLA made itself have no name: they go with the others.
        if found.total() > found[OTHER]:
            del found[OTHER]
        if total := found.total():
            return {name: size / total for name, size in found.items()}
    return {class_of(instruction): 1.0}


def _inside(module: Module, fusion: Instruction) -> Iterator[tuple[Instruction, int]]:
    """What a fusion computes, with the elements that each part reads or writes."""
    for inside in module.body(fusion):
        if inside.opcode == "fusion":
            yield from _inside(module, inside)
        elif inside.opcode not in _FREE:
            read = (module.instructions.get(name) for name in inside.operands)
            yield inside, max(inside.elements, *(i.elements for i in read if i), 1)


def class_of(instruction: Instruction) -> str:
    """The class of one instruction that is no fusion, by itself."""
    name, opcode = instruction.op_name, instruction.opcode
    quantizes, multiplies = _QUANTIZER.search(name), _PRODUCT.search(name)
    if opcode in _MOVING:
        place = "quantizers" if quantizes else "products" if multiplies else "model, XLA's own"
        return COPIES[place]
    if quantizes:
        return HADAMARD if opcode == "dot" else QUANTIZERS
    if opcode == "convolution" or name.endswith("/conv_general_dilated"):
        return CONVOLUTION
    if opcode == "dot" or name.endswith("/dot_general"):
        return DOT
    if multiplies:
        return RESCALED
    for source, found in _SOURCES:
        if any(source.search(frame) for frame in instruction.frames):
            return found
    return MODEL if instruction.frames else OTHER
