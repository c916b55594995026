"""What a page of the reference has: all public names of a package.

A package's public names are those of its ``__all__``; without one, those that it imports as
themselves (``from ... import name as name``), the way in which type checkers tell public names.
"""

import ast
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
    "fp4jax.predict",
    "fp4jax.deploy",
    "fp4jax.study",
    "fp4jax.analysis.stats",
    "fp4jax.analysis.diagnosis",
    "fp4jax.analysis.sensitivity",
    "fp4jax.analysis.report",
    "fp4jax.core.hooks",
)


def source(package: str, root: Path) -> ast.Module:
    path = root.joinpath(*package.split("."))
    return ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text())


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
    defined = {
        node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    found = imported or defined
    return sorted((name for name in found if not name.startswith("_")), key=str.lower)


def page(package: str, root: Path) -> str:
    """Markdown: the package's text as it is written, then every name."""
    summary, _, rest = (ast.get_docstring(source(package, root)) or "").partition("\n")
    parts = [f"# {package}", summary]
    if rest.strip():
        parts.append(f"```text\n{rest.strip(chr(10))}\n```")
    parts += [f"::: {package}.{name}" for name in public_names(package, root)]
    return "\n\n".join(parts) + "\n"
