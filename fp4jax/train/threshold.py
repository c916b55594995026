"""The threshold of a run's masks: chosen on validation patients, or 0.5 if they cannot tell."""

import logging

from fp4jax.metrics import Sweep

_LOG = logging.getLogger(__name__)


def chosen_threshold(sweep: Sweep | None, run: str) -> float:
    """The threshold of the best F2 on the validation patients; 0.5, with a warning, without any.

    Args:
        sweep: of all pixels of the validation patients; None if there are no such patients.
        run: its name, for the message.

    Example:
        >>> chosen_threshold(None, "cnn_500k")
        0.5
    """
    if sweep is not None and sweep.chooses:
        return sweep.best_threshold
    _LOG.warning(
        "%s: its validation patients have no lesion, or no threshold finds any of it, so that none "
        "can be chosen by F2; masks and scores are at 0.5.",
        run,
    )
    return 0.5
