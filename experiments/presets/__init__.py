"""Studies by name, for ``python -m experiments.study NAME``.

Each function's text says what the study is for, what it costs, what is expected and its command.
"""

from collections.abc import Callable

from experiments.presets.brats import brats_cv, brats_demo
from experiments.presets.paper import paper_cv, paper_holdout, paper_seeds
from experiments.presets.preset import Preset as Preset
from experiments.presets.small import attention_demo, demo, lgg_cpu, lgg_cv_cpu

PRESETS: dict[str, Callable[[], Preset]] = {
    function.__name__.replace("_", "-"): function
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
