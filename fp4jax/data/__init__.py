"""Data: cohorts of slices, where they come from, how they are split, checked and augmented."""

from fp4jax.data.cohort import Cohort as Cohort
from fp4jax.data.contents import (
    differences as differences,
    fingerprint as fingerprint,
    verify as verify,
)
from fp4jax.data.lgg import LGG_EXPECTED as LGG_EXPECTED
from fp4jax.data.loaders import (
    check_options as check_options,
    load as load,
    names as names,
    needs_root as needs_root,
    options as options,
    register as register,
)
from fp4jax.data.regrouping import joined as joined
from fp4jax.data.splits import (
    Split as Split,
    patient_holdout as patient_holdout,
    patient_kfold as patient_kfold,
    split_folds as split_folds,
)
