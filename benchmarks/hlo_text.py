"""Reads the text of a compiled program: its instructions, what they compute, where they come from.

``compiled.as_text()`` is the module that XLA runs, after all of its passes. Names of instructions
are unique in it, and those of the traced events of a profile.
"""

import dataclasses
import re
from collections.abc import Iterator

_COMPUTATION = re.compile(r"^(?:ENTRY )?%([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%([\w.\-]+) = (.*)$")
_SHAPE = re.compile(r"\b[a-z]\w*\[([\d,]*)\]")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|condition)=%([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_FRAME = re.compile(r"stack_frame_id=(\d+)")
_SOURCE = re.compile(r'source_file="([^"]*)"')
_TABLES = ("FileNames", "FunctionNames", "FileLocations", "StackFrames")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One of a computation.

    Attributes:
        name: unique in the module.
        opcode: "fusion", "dot", "copy", ...
        elements: of its result; of a tuple, of all its parts.
        operands: names of instructions.
        called: names of the computations that it calls.
        op_name: the names of ``jax.named_scope`` and of the operation in JAX, "" without.
        frames: "file function" of the source, innermost first.
    """

    name: str
    opcode: str
    elements: int
    operands: tuple[str, ...] = ()
    called: tuple[str, ...] = ()
    op_name: str = ""
    frames: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Module:
    """A program: its computations, each a tuple of instructions, by name."""

    name: str
    computations: dict[str, tuple[Instruction, ...]]

    def __post_init__(self):
        every = {i.name: i for body in self.computations.values() for i in body}
        object.__setattr__(self, "instructions", every)

    #: all instructions by name
    instructions: dict[str, Instruction] = dataclasses.field(init=False)

    def body(self, instruction: Instruction) -> tuple[Instruction, ...]:
        """The instructions of the computations that an instruction calls."""
        return tuple(i for name in instruction.called for i in self.computations.get(name, ()))


def parse(text: str) -> Module:
    """A module from its text.

    Raises:
        ValueError: if it has no instructions.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> compiled = jax.jit(lambda x: jnp.dot(x, x)).lower(jnp.ones((8, 8))).compile()
        >>> found = parse(compiled.as_text()).instructions.values()
        >>> [i.elements for i in found if i.opcode == "dot"]
        [64]
    """
    lines = text.splitlines()
    frames = _stack_frames(lines)
    computations: dict[str, tuple[Instruction, ...]] = {}
    name, body = "", []
    for line in lines:
        if start := _COMPUTATION.match(line):
            name, body = start[1], []
        elif line.startswith("}") and name:
            computations[name], name = tuple(body), ""
        elif name and (found := _INSTRUCTION.match(line)):
            body.append(_instruction(found[1], found[2], frames))
    if not any(computations.values()):
        raise ValueError("this text has no HLO instructions; give that of compiled.as_text().")
    title = re.search(r"HloModule ([\w.\-]+)", text)
    return Module(title[1] if title else "", _with_names(computations))


def _with_names(
    computations: dict[str, tuple[Instruction, ...]],
) -> dict[str, tuple[Instruction, ...]]:
    """Names those that XLA made itself as what takes their result, else as what they take.

    Products keep no name: what takes their result has another purpose.
    """
    found: dict[str, tuple[Instruction, ...]] = {}
    callers: dict[str, Instruction] = {}
    # Callers stand behind what they call, and users behind what they use.
    for computation, body in reversed(computations.items()):
        named: dict[str, Instruction] = {}
        users: dict[str, Instruction] = {}
        for i in reversed(body):
            source = users.get(i.name, callers.get(computation))
            named[i.name] = i = _as(i, source)
            for operand in i.operands if i.op_name else ():
                users[operand] = i
            for called in i.called if i.opcode == "fusion" and i.op_name else ():
                callers[called] = i
        for i in body:
            sources = (named.get(operand) for operand in i.operands)
            source = next((other for other in sources if other and other.op_name), None)
            named[i.name] = _as(named[i.name], source)
        found[computation] = tuple(named[i.name] for i in body)
    return found


def _as(instruction: Instruction, source: Instruction | None) -> Instruction:
    """The instruction with another's name, if it has none."""
    if not source or instruction.op_name or instruction.opcode in ("convolution", "dot"):
        return instruction
    return dataclasses.replace(instruction, op_name=source.op_name, frames=source.frames)


def _instruction(name: str, rest: str, frames: dict[int, tuple[str, ...]]) -> Instruction:
    shape, rest = _first(rest)
    opcode, _, arguments = rest.strip().partition("(")
    arguments, attributes = _first("(" + arguments)
    branches = _BRANCHES.search(attributes)
    called = [
        *_CALLED.findall(attributes),
        *re.findall(r"%([\w.\-]+)", branches[1] if branches else ""),
    ]
    op_name, frame, source = (p.search(attributes) for p in (_OP_NAME, _FRAME, _SOURCE))
    where = frames.get(int(frame[1]), ()) if frame else ()
    if not where and source:
        where = (source[1] + " ",)
    return Instruction(
        name,
        opcode,
        sum(_elements(sizes) for sizes in _SHAPE.findall(shape)),
        tuple(re.findall(r"%([\w.\-]+)", arguments)),
        tuple(called),
        op_name[1] if op_name else "",
        where,
    )


def _first(text: str) -> tuple[str, str]:
    """A shape, or what stands in parentheses, and the rest."""
    if not text.startswith("("):
        shape, _, rest = text.partition(" ")
        return shape, rest
    depth = 0
    for place, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if not depth:
            return text[: place + 1], text[place + 1 :]
    return text, ""


def _elements(sizes: str) -> int:
    count = 1
    for size in filter(None, sizes.split(",")):
        count *= int(size)
    return count


def _stack_frames(lines: list[str]) -> dict[int, tuple[str, ...]]:
    """ "file function" of every frame and of those around it, by the number of the innermost."""
    tables = dict(_tables(lines))
    if set(tables) < set(_TABLES):
        return {}
    files, functions = (
        {number: text.strip('"') for number, text in tables[t].items()} for t in _TABLES[:2]
    )
    places = {
        n: f"{files.get(_field(t, 'file_name_id'))} {functions.get(_field(t, 'function_name_id'))}"
        for n, t in tables["FileLocations"].items()
    }
    # XLA writes the number of the parent plus 1, so that the first frame seems to be its own.
    more = int(_field(tables["StackFrames"].get(1, ""), "parent_frame_id") == 1)
    steps = {
        n: (places.get(_field(t, "file_location_id"), ""), _field(t, "parent_frame_id") - more)
        for n, t in tables["StackFrames"].items()
    }
    return {number: tuple(_upwards(steps, number)) for number in steps}


def _field(text: str, name: str) -> int:
    """A number of a frame, 0 without."""
    found = re.search(rf"\b{name}=(\d+)", text)
    return int(found[1]) if found else 0


def _upwards(steps: dict[int, tuple[str, int]], number: int) -> Iterator[str]:
    seen = set()
    while number in steps and number not in seen:
        seen.add(number)
        place, number = steps[number]
        yield place


def _tables(lines: list[str]) -> Iterator[tuple[str, dict[int, str]]]:
    """The numbered tables that stand before the computations."""
    title, rows = "", {}
    for line in lines:
        if line in _TABLES:
            title, rows = line, {}
        elif title and (row := re.match(r"^(\d+) (.*)$", line)):
            rows[int(row[1])] = row[2]
        elif title:
            yield title, rows
            title = ""
        if line.startswith(("%", "ENTRY")):
            return
