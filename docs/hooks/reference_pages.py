"""What a page of the reference has: all public names of a package.

A package's public names are those of its ``__all__``; without one, those that it imports as
themselves (``from ... import name as name``), the way in which type checkers tell public names.
"""

import ast
import itertools
import re
import textwrap
from pathlib import Path

#: In the order of the site's menu.
PACKAGES = (
    "fp4jax",
    "fp4jax.nnx",
    "fp4jax.linen",
    "fp4jax.packed",
    "fp4jax.kernels",
    "fp4jax.models",
    "fp4jax.losses",
    "fp4jax.metrics",
    "fp4jax.data",
    "fp4jax.data.nifti",
    "fp4jax.data.phantom",
    "fp4jax.inference",
    "fp4jax.train",
    "fp4jax.track",
    "fp4jax.predict",
    "fp4jax.deploy",
    "fp4jax.study",
    "fp4jax.analysis.stats",
    "fp4jax.analysis.diagnosis",
    "fp4jax.analysis.sensitivity",
    "fp4jax.analysis.report",
    "fp4jax.analysis.claims",
    "fp4jax.core.hooks",
)

#: A paragraph that is code or a table: it begins with an assignment, a call, or a rule of "=".
_CODE = re.compile(r"=|[\w, ()]+ = |\w+\([^)]*\) *$")


def source(package: str, root: Path) -> ast.Module:
    path = root.joinpath(*package.split("."))
    return ast.parse(
        (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()
    )


def public_names(package: str, root: Path) -> list[str]:
    """Names of a package, or of a module that defines what it offers; submodules are not names."""
    tree = source(package, root)
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return sorted(ast.literal_eval(node.value), key=str.lower)
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name
    }
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    found = imported or defined
    return sorted((name for name in found if not name.startswith("_")), key=str.lower)


def shown(docstring: str) -> str:
    """A package's text as Markdown: what is indented, a table or a line of code stays as it is."""
    parts = []
    for paragraph in docstring.split("\n\n"):
        whole = bool(_CODE.match(paragraph))
        for kept, run in itertools.groupby(
            paragraph.split("\n"), lambda line, whole=whole: whole or line.startswith("    ")
        ):
            text = textwrap.dedent("\n".join(run))
            parts.append(f"```text\n{text}\n```" if kept else text)
    return "\n\n".join(parts)


def page(package: str, root: Path) -> str:
    """Markdown: the package's text, then every name."""
    parts = [f"# {package}", shown(ast.get_docstring(source(package, root)) or "")]
    parts += [f"::: {package}.{name}" for name in public_names(package, root)]
    return "\n\n".join(parts) + "\n"
