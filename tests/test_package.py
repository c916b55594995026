"""The package as a whole: version, cost of importing, names, references, layers, extras."""

import ast
import importlib.metadata
import pkgutil
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fp4jax
from fp4jax.extras import Extra

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "fp4jax"
# Installed only for training, studies, tests or benchmarks; `import fp4jax` needs none of them.
TRAINING = {"flax", "optax", "orbax"}
EXTRAS = {
    "array_record", "beartype", "chex", "hypothesis", "jaxtyping", "matplotlib", "mlflow",
    "nibabel", "onnx", "onnxruntime", "pandas", "pytest", "qwix", "ray", "rich", "safetensors",
    "sklearn", "statsmodels", "tensorboardX", "tensorflow",
    "tensorflow_datasets", "tifffile", "torch", "tyro", "wandb",
}  # fmt: skip
# What the extra "study" installs, by the names of modules.
STUDY = {
    "PIL", "matplotlib", "nibabel", "pandas", "rich", "safetensors", "scipy", "sklearn",
    "statsmodels", "tensorflow_datasets", "tifffile",
}  # fmt: skip


def run_python(code: str, env: dict[str, str] | None = None) -> str:
    """What a fresh interpreter, without the tests' import hooks, prints."""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_version_is_the_installed_one():
    assert fp4jax.__version__ == importlib.metadata.version("fp4jax")


def test_import_is_light():
    modules = run_python("import sys, fp4jax; print(*{m.split('.')[0] for m in sys.modules})")
    # jaxtyping is used where it is there
    assert set(modules.split()) & (TRAINING | EXTRAS) <= {"jaxtyping"}


def test_import_without_extras():
    without = f"import sys; sys.modules.update(dict.fromkeys({sorted(EXTRAS)})); "
    run_python(without + "import fp4jax")
    # flax itself needs rich
    without = without.replace("'rich', ", "")
    run_python(without + "import fp4jax.train, fp4jax.models, fp4jax.data, fp4jax.metrics")


def test_import_initializes_no_device():
    configure = "import fp4jax, jax; jax.config.update('jax_num_cpu_devices', 3)"
    assert run_python(f"{configure}; print(jax.device_count('cpu'))").strip() == "3"


# Names.


def subpackages() -> list[str]:
    """The folders of the package, and its adapter to Linen and files.py: what users import."""
    folders = [path.parent.name for path in PACKAGE.glob("*/__init__.py")]
    return sorted([*folders, "files", "linen"])


def test_subpackages_are_attributes():
    """All of them, in any order, after ``import fp4jax`` alone."""
    for names in (subpackages(), subpackages()[::-1]):
        run_python(f"import fp4jax as fp4; [getattr(fp4, name) for name in {names}]")


def test_dir_shows_what_is_public():
    code = "import fp4jax; print(*(name for name in dir(fp4jax)))"
    shown = run_python(code).split()
    assert shown == sorted({*fp4jax.__all__, *subpackages(), "__version__"})
    run_python("from fp4jax import *; quantize, dot_general, Recipe, TensorSpec")


def test_unknown_attribute():
    with pytest.raises(AttributeError, match="has no attribute 'quantise'"):
        _ = fp4jax.quantise  # type: ignore[attr-defined]


def exports(init: Path) -> set[str]:
    """Names that a package binds itself, apart from its own modules."""
    package = ".".join(init.relative_to(ROOT).parent.parts)
    names: set[str] = set()
    body = list(ast.parse(init.read_text()).body)
    while body:
        node = body.pop()
        if isinstance(node, ast.If | ast.With):
            body += node.body
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.ImportFrom) and node.module != package:
            names |= {alias.asname or alias.name for alias in node.names}
    return names


@pytest.mark.parametrize("init", sorted(PACKAGE.rglob("__init__.py")), ids=lambda p: p.parent.name)
def test_no_module_is_named_like_a_public_function(init):
    """Which of the two ``package.name`` is would depend on what was imported before."""
    modules = {path.stem for path in init.parent.glob("*.py")}
    modules |= {path.parent.name for path in init.parent.glob("*/__init__.py")}
    assert not modules & exports(init)


# References in docstrings.

REFERENCE = re.compile(r":(?:mod|func|class|meth|data|attr|exc|obj):`~?([^`]*)`")
FILE = re.compile(r"\b(?:fp4jax|tests|experiments|benchmarks)/[\w/]+\.(?:py|md)\b")


def bound_names(tree: ast.AST) -> set[str]:
    """All that a module, its classes and its functions define or import."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def is_there(target: str) -> bool:
    """Whether there is a module, or an attribute of one, with a dotted name."""
    try:
        pkgutil.resolve_name(target)
    except (ImportError, AttributeError):
        return False
    return True


def broken_references(text: str) -> list[str]:
    """Targets of roles that are neither dotted names nor names of the module; absent files."""
    names = bound_names(ast.parse(text))
    return [
        target
        for target in REFERENCE.findall(text)
        if not names >= set(target.split(".")) and not ("." in target and is_there(target))
    ] + [path for path in FILE.findall(text) if not (ROOT / path).exists()]


def test_references_resolve():
    paths = sorted(PACKAGE.rglob("*.py"))
    found = {str(path.relative_to(ROOT)): broken_references(path.read_text()) for path in paths}
    assert not {path: targets for path, targets in found.items() if targets}


def test_broken_references_are_found():
    text = """
    :func:`fp4jax.quantize` :mod:`fp4jax.core.spec` :meth:`A.b` :func:`scipy.stats.wilcoxon`
    :mod:`fp4jax.core.absent` :func:`fp4jax.absent` :func:`absent` :meth:`A.c` tests/absent.py
    """
    text = f"class A:\n    def b(self):\n        {text!r}\n"
    absent = ["fp4jax.core.absent", "fp4jax.absent", "absent", "A.c", "tests/absent.py"]
    assert broken_references(text) == absent


# Layers: `make lint` checks the contracts of pyproject.toml.


@pytest.mark.parametrize(
    ("module", "line", "chain"),
    [
        ("files.py", "from fp4jax import analysis", "fp4jax.files -> fp4jax.analysis"),
        (
            "core/blocks.py",
            "def later():\n    import fp4jax.ops.gemm",
            "fp4jax.core.blocks -> fp4jax.ops.gemm",
        ),
        (
            "models/registry.py",
            "from fp4jax import losses",
            "fp4jax.models.registry -> fp4jax.losses",
        ),
        ("train/run.py", "import fp4jax", "fp4jax.train.run -> fp4jax "),
    ],
    ids=["bottom", "in a function", "siblings", "root"],
)
def test_upward_import_breaks_the_contract(tmp_path, module, line, chain):
    shutil.copytree(PACKAGE, tmp_path / "fp4jax", ignore=shutil.ignore_patterns("*.npz", "*.pyc"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "fp4jax" / module).open("a") as file:
        file.write(f"\n{line}\n")
    script = "from importlinter.cli import lint_imports_command as lint; lint()"
    command = [sys.executable, "-c", script, "--no-cache", "--no-logo"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 1, run.stderr
    assert chain in run.stdout


# Optional packages.


def test_extra_names_what_to_install():
    for module, package in (("sklearn", "scikit-learn"), ("safetensors.numpy", "safetensors")):
        message = rf"^{package} is not installed: pip install 'fp4jax\[study\]'$"
        with pytest.raises(ModuleNotFoundError, match=message) as raised, Extra("study"):
            raise ModuleNotFoundError(name=module)
        assert raised.value.name == module


@pytest.mark.parametrize(
    "error", [ModuleNotFoundError(name="fp4jax.absent"), ModuleNotFoundError("?"), ValueError("?")]
)
def test_extra_leaves_other_errors_alone(error):
    with pytest.raises(type(error)) as raised, Extra("study"):
        raise error
    assert raised.value is error


FIGURE = """
from fp4jax.analysis.figures.panels import new_figure
new_figure(1.0, 1.0)
"""
HOLDOUT = """
import numpy as np
images, ids = np.zeros((8, 4, 4, 1), np.uint8), np.array(list("abcdefgh"))
cohort = fp4.data.Cohort(images, images[..., 0], ids, np.zeros(8, np.int32), "eight", ("flair",))
fp4.data.patient_holdout(cohort)
"""


@pytest.mark.parametrize(
    ("module", "package", "code"),
    [
        ("pandas", "pandas", "import fp4jax.analysis.stats"),
        ("statsmodels", "statsmodels", "import fp4jax.analysis.report"),
        ("matplotlib", "matplotlib", FIGURE),
        ("safetensors", "safetensors", "fp4.packed.read_records('file')"),
        ("sklearn", "scikit-learn", HOLDOUT),
    ],
)
def test_absent_package_is_named(module, package, code):
    code = f"""
import sys, fp4jax as fp4
sys.modules[{module!r}] = None
try:
    exec({code!r})
except ModuleNotFoundError as error:
    print(error)
"""
    assert run_python(code).strip() == f"{package} is not installed: pip install 'fp4jax[study]'"


def unprotected_imports(tree: ast.AST) -> Iterator[int]:
    """Lines that import an optional package with no ``with Extra``, try or TYPE_CHECKING around."""
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.Try() | ast.With(items=[ast.withitem(ast.Call(func=ast.Name("Extra")))]):
                continue
            case ast.If(test=ast.Name("TYPE_CHECKING")):
                continue
            case ast.Import(names=names):
                modules = [alias.name for alias in names]
            case ast.ImportFrom(module=str(module)):
                modules = [module]
            case _:
                modules = []
                yield from unprotected_imports(node)
        if {module.partition(".")[0] for module in modules} & STUDY:
            yield node.lineno


def test_optional_imports_name_their_extra():
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in PACKAGE.rglob("*.py")
        # fp4jax.cli.program imports all others of its folder in ``with Extra``.
        if not path.is_relative_to(PACKAGE / "cli")
        for line in unprotected_imports(ast.parse(path.read_text()))
    ]
    assert not found
