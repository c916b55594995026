"""Studies by name, for ``fp4jax study NAME``.

Each function's text says what the study is for, what it costs, what is expected and its command.
"""

import functools
from collections.abc import Callable

from fp4jax.cli.presets.brats import brats_cv, brats_demo
from fp4jax.cli.presets.paper import paper_cv, paper_holdout, paper_seeds
from fp4jax.cli.presets.preset import Preset as Preset
from fp4jax.cli.presets.small import attention_demo, demo, lgg_cpu, lgg_cv_cpu

#: Each is made once: a study checks all of its runs.
PRESETS: dict[str, Callable[[], Preset]] = {
    function.__name__.replace("_", "-"): functools.cache(function)
    for function in (
        demo,
        attention_demo,
        brats_demo,
        lgg_cpu,
        lgg_cv_cpu,
        paper_holdout,
        paper_cv,
        paper_seeds,
        brats_cv,
    )
}
