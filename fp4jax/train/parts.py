"""Which slices of a cohort a run trains, validates and tests on."""

from fp4jax.data import Cohort, Split, patient_holdout, patient_kfold
from fp4jax.train.config import RunConfig


def split_of(config: RunConfig, cohort: Cohort) -> Split:
    """The patients of a run's training, validation and test part.

    Example:
        >>> from fp4jax.data import phantom
        >>> cohort = phantom.load(patients=20, slices=8, image_size=16, cache=False)
        >>> split = split_of(RunConfig(image_size=16), cohort)
        >>> len(split.train), len(split.val), len(split.test)
        (16, 2, 2)
    """
    if config.fold is None:
        return patient_holdout(cohort, seed=config.split_seed)
    return patient_kfold(cohort, folds=config.folds, seed=config.split_seed)[config.fold]


def check_size(config: RunConfig, cohort: Cohort) -> None:
    """Raises ValueError if the cohort's images do not have the run's size."""
    height, width = cohort.images.shape[1:3]
    if (height, width) != (config.image_size, config.image_size):
        raise ValueError(
            f"the cohort's images have {height}x{width} pixels, image_size is "
            f"{config.image_size}; use cohort.resize({config.image_size}) or another image_size."
        )
