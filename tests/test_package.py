"""The package as installed: its version, and what importing it costs."""

import importlib.metadata
import subprocess
import sys

import fp4jax

# Installed only for training, studies, tests or benchmarks; `import fp4jax` needs none of them.
TRAINING = {"flax", "optax", "orbax"}
EXTRAS = {
    "array_record", "beartype", "chex", "hypothesis", "jaxtyping", "matplotlib", "nibabel",
    "pandas", "pytest", "qwix", "rich", "safetensors", "sklearn", "statsmodels", "tensorflow",
    "tensorflow_datasets", "tifffile", "torch", "tyro",
}  # fmt: skip


def run_python(code: str) -> str:
    """What a fresh interpreter, without the tests' import hooks, prints."""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
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


def test_subpackages_are_attributes():
    run_python("import fp4jax as fp4; fp4.models.create, fp4.data.load, fp4.train.train")


def test_import_initializes_no_device():
    configure = "import fp4jax, jax; jax.config.update('jax_num_cpu_devices', 3)"
    assert run_python(f"{configure}; print(jax.device_count('cpu'))").strip() == "3"
