"""What the library says about its work: to a log, or on the screen if it is asked to."""

import logging

_LOG = logging.getLogger("fp4jax")


def announce(message: object, verbose: bool) -> None:
    """Prints a line if ``verbose``; logs it at level INFO otherwise, to the logger "fp4jax"."""
    if verbose:
        print(message)
    else:
        _LOG.info("%s", message)
