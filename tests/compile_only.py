"""Compiles functions for GPUs on a machine without one, and counts instructions.

``lowers_to_cuda`` needs plain JAX. ``compile_for`` needs the CUDA plugin of JAX's own version
(jax-cuda13-plugin, jax-cuda13-pjrt, nvidia-cuda-nvcc, nvidia-nvvm, nvidia-cuda-runtime,
nvidia-cuda-crt, nvidia-cuda-nvdisasm, all without dependencies) and skips the test without it.
Nothing is executed.
"""

import dataclasses
import functools
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import pytest
from jax.experimental import topologies
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, NamedSharding, PartitionSpec

_CONFIG = """
gpu_device_info {{ threads_per_block_limit: 1024 threads_per_warp: 32
 shared_memory_per_block: 49152 shared_memory_per_core: {shared}
 threads_per_core_limit: 2048 core_count: {cores} fpus_per_core: 128
 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
 memory_bandwidth: {bandwidth} l2_cache_size: {l2} clock_rate_ghz: 1.9
 device_memory_size: {memory} shared_memory_per_block_optin: {optin}
 cuda_compute_capability {{ major: {major} minor: {minor} feature_extension: {extension} }}
 registers_per_core_limit: 65536 registers_per_block_limit: 65536
 thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
 device_vendor: "NVIDIA Corporation" device_address_bits: 64 name: "{name}"
 driver_version: "13.0.0" runtime_version: "13.0.0" compile_time_toolkit_version: "13.0.0"
 dnn_version: "9.12.0" }}
platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 12 patch: 0 }}
device_description_str: "{name}"
"""

_NAMES = {
    "A100": "NVIDIA A100-SXM4-80GB",
    "H200": "NVIDIA H200",
    "B200": "NVIDIA B200",
    "RTX PRO 6000": "NVIDIA RTX PRO 6000",
    "Thor": "NVIDIA Thor",
}

_SPECIFIC = "ACCELERATED_FEATURES"
#: (major, minor, extension, cores, bytes/s, L2, memory, shared memory per core, and per block)
_FIGURES = {
    "A100": (8, 0, "NONE", 108, 2039000000000, 41943040, 85899345920, 167936, 166912),
    "H200": (9, 0, _SPECIFIC, 132, 4800000000000, 52428800, 151397597184, 233472, 232448),
    "B200": (10, 0, _SPECIFIC, 148, 7672320000000, 132644864, 191514411008, 233472, 232448),
    "RTX PRO 6000": (12, 0, "NONE", 188, 1792000000000, 134217728, 103079215104, 131072, 101376),
    "Thor": (11, 0, _SPECIFIC, 20, 273000000000, 33554432, 130000000000, 233472, 232448),
}

#: What a program that is lowered calls where it has a kernel of Triton's, or of Mosaic's.
TRITON = "__gpu$xla.gpu.triton"
MOSAIC = "custom_call @mosaic_gpu_v2"


@dataclasses.dataclass(frozen=True)
class Kernel:
    """What the assembler made of one kernel."""

    registers: int
    # bytes stored to and loaded from local memory because registers ran out
    spills: int
    # SASS instructions, all of them
    instructions: int
    # those of its longest innermost loop, 0 without a loop
    loop: int
    sass: str


@dataclasses.dataclass(frozen=True)
class Report:
    """The kernels of a compiled function by name, and its PTX."""

    kernels: dict[str, Kernel]
    ptx: str

    @property
    def registers(self) -> int:
        return max(k.registers for k in self.kernels.values())

    @property
    def spills(self) -> int:
        return sum(k.spills for k in self.kernels.values())

    @property
    def instructions(self) -> int:
        return sum(k.instructions for k in self.kernels.values())

    @property
    def loop(self) -> int:
        return max(k.loop for k in self.kernels.values())


@functools.cache
def targets() -> dict[str, str]:
    """Names of GPUs and the text that makes XLA compile for them."""
    fields = ("major", "minor", "extension", "cores", "bandwidth", "l2", "memory", "shared")
    fields = (*fields, "optin")
    return {
        target: _CONFIG.format(name=_NAMES[target], **dict(zip(fields, figures, strict=True)))
        for target, figures in _FIGURES.items()
    }


def capability(target: str) -> tuple[int, int]:
    """(9, 0) for H200."""
    return _FIGURES[target][:2]


def abstract_mesh(target: str = "H200"):
    """A context in which traces are for that GPU."""
    device = AbstractDevice(device_kind=_NAMES[target], num_cores=None, platform="gpu")
    mesh = AbstractMesh((1,), ("x",), (AxisType.Auto,), abstract_device=device)
    return jax.sharding.use_abstract_mesh(mesh)


def lowers_to_cuda(function, *structs, target: str = "H200") -> str:
    """The lowered module's text, for a GPU, on a machine that knows nothing of CUDA.

    Lowering runs all of Pallas' translation, but no compiler for the GPU.
    """
    with abstract_mesh(target):
        lowered = jax.jit(function).trace(*structs).lower(lowering_platforms=("cuda",))
        return lowered.as_text()


def compile_for(target: str, function, *structs, kernel: str = "") -> Report:
    """Compiles ``jax.jit(function)`` for that GPU; of the kernels whose name contains ``kernel``.

    Arguments are arrays' shapes and dtypes, or pytrees of these. Skips the test where the CUDA
    plugin or its tools are missing.
    """
    tools = _compilers()
    with tempfile.TemporaryDirectory() as folder:
        _compiled(target, function, structs, {"xla_dump_to": folder})
        modules = [p for p in Path(folder).rglob("*.ptx") if ".entry" in p.read_text()]
        found, texts = {}, []
        for i, module in enumerate(sorted(modules)):
            cubin = Path(folder) / f"{i}.cubin"
            found |= _assembled(tools, module, cubin)
            texts.append(module.read_text())
    found = {name: made for name, made in found.items() if kernel in name}
    if not found:
        raise ValueError(f"no kernel has {kernel!r} in its name")
    return Report(found, "\n".join(texts))


def compile_mosaic(target: str, call: str) -> list[Report]:
    """As :func:`compile_for`, for Mosaic GPU kernels, in a process of its own.

    XLA knows nothing of these kernels: Mosaic compiles them and says what it did if it is told to,
    and it compiles for one kind of GPU in a process.

    Args:
        call: "module.function" of the process, which gets a function that compiles for the GPU:
            called with a function and its arguments' shapes.
    """
    _compilers()
    module, function = call.rsplit(".", 1)
    script = (
        f"import functools, {module}\nfrom tests import compile_only\n"
        f"compile_ = functools.partial(compile_only.compiled, {target!r})\n"
        f"{module}.{function}(compile_)"
    )
    variables = ("MOSAIC_GPU_DUMP_PTX", "MOSAIC_GPU_DUMP_PTXAS", "MOSAIC_GPU_DUMP_SASS")
    environment = os.environ | dict.fromkeys(variables, "1")
    environment |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"compiling for {target} failed: {done.stderr[-2000:]}")
    # PTX, then what the assembler says and SASS, for each kernel.
    first, *said = re.split(r"^(?=.*Generated by LLVM NVPTX)", done.stdout, flags=re.M)
    del first
    return [_of_mosaic(text) for text in said]


def compiled(target: str, function, *structs) -> None:
    """Compiles ``jax.jit(function)`` for that GPU."""
    _compiled(target, function, structs, {})


def _of_mosaic(said: str) -> Report:
    ptx, rest = said.split("ptxas", 1)
    (name,) = re.findall(r"Compiling entry function '(\w+)'", rest)
    (registers,) = re.findall(r"Used (\d+) registers", rest)
    spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", rest)
    sass = _section(rest, name)
    kernel = Kernel(int(registers), sum(map(int, spills)), *_count(sass), sass)
    return Report({name: kernel}, ptx)


def optimized(target: str, function, *structs) -> str:
    """The HLO that XLA makes of ``jax.jit(function)`` for that GPU."""
    _compilers()
    return _compiled(target, function, structs, {}).as_text()


def available() -> bool:
    """True where :func:`compile_for` works."""
    return _missing() is None


def _missing() -> str | None:
    if importlib.util.find_spec("jax_cuda13_plugin") is None:
        return "the CUDA plugin is not installed (jax-cuda13-plugin and the like)"
    if any(_tool(name) is None for name in ("ptxas", "nvdisasm")):
        return "nvidia-cuda-nvcc and nvidia-cuda-nvdisasm are not installed"
    return None


@functools.cache
def _mesh(target: str):
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
    topology = topologies.get_topology_desc(
        platform="cuda", target_config=targets()[target], topology="1x1x1"
    )
    return topologies.make_mesh(topo=topology, mesh_shape=(1,), axis_names=("x",))


def _compiled(target: str, function, structs, options: dict):
    mesh = _mesh(target)
    replicated = NamedSharding(mesh, PartitionSpec())
    structs = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=replicated), structs
    )
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        return jax.jit(function).trace(*structs).lower().compile(compiler_options=options)


def _compilers() -> tuple[str, str]:
    """Paths of ptxas and nvdisasm; skips the test where something is missing."""
    if (missing := _missing()) is not None:
        pytest.skip(missing)
    return str(_tool("ptxas")), str(_tool("nvdisasm"))


def _tool(name: str) -> Path | None:
    places = (Path(p) / "nvidia" / "cu13" / "bin" / name for p in sys.path)
    return next((p for p in places if p.is_file()), None)


def _assembled(tools: tuple[str, str], ptx: Path, cubin: Path) -> dict[str, Kernel]:
    """Assembles a file of PTX, as XLA does, and reads what the assembler says."""
    ptxas, nvdisasm = tools
    (arch,) = re.findall(r"^\.target (sm_\w+)", ptx.read_text(), re.M)
    command = [ptxas, "-v", f"-arch={arch}", str(ptx), "-o", str(cubin)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    listing = subprocess.run(
        [nvdisasm, "-c", str(cubin)], check=True, capture_output=True, text=True
    ).stdout
    kernels = {}
    for entry in said.split("Compiling entry function '")[1:]:
        name = entry.split("'", 1)[0]
        spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", entry)
        (registers,) = re.findall(r"Used (\d+) registers", entry)
        sass = _section(listing, name)
        whole, loop = _count(sass)
        kernels[name] = Kernel(int(registers), sum(map(int, spills)), whole, loop, sass)
    return kernels


def _section(listing: str, name: str) -> str:
    """The part of nvdisasm's output that is one kernel's code."""
    return listing.split(f".section\t.text.{name},", 1)[1].split("\t.section\t", 1)[0]


def _count(sass: str) -> tuple[int, int]:
    """Instructions in all, and in the longest innermost loop: those up to a branch backwards."""
    labels: dict[str, int] = {}
    loops: list[tuple[int, int]] = []
    count = 0
    for line in sass.splitlines():
        if label := re.match(r"\s*(\.L_x?_?\w+):", line):
            labels[label[1]] = count
        elif re.match(r"\s*/\*[0-9a-f]+\*/", line) and " NOP" not in line:
            count += 1
            branch = re.search(r"\bBRA\b.*`\((\.L_\w+)\)", line)
            # The endless loop that ends every kernel is one instruction long.
            if branch and labels.get(branch[1], count) < count - 1:
                loops.append((labels[branch[1]], count))
    inner = [a for a in loops if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in loops)]
    return count, max((end - start for start, end in inner), default=0)
