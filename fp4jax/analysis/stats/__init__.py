"""Statistics of a study: from the table of its runs, or from its patients' histograms.

Runs are paired on (split, seed) within an (architecture, scale). The unit is a seed where there is
one split, and a split where there are several: the seeds of a fold are repeats on the same
patients, and are averaged. A cross-validation has few folds but many patients, each a test patient
of one fold, and can decide what its folds cannot: there the unit is a patient, counted once. All
functions are pure, and take random numbers from a seed only.

===========================================  ======================================================
:func:`summary`, :func:`relative`            mean and t interval; per cent of the paired baseline
:func:`compare`, :func:`power_note`          Wilcoxon with Holm's correction, effect sizes with
                                             intervals, equivalence, a verdict; whether the design
                                             can reach significance
:func:`compare_patients`                     the same over patients, and allowing for their folds
:func:`kendall`                              does every seed rank the recipes alike?
:func:`patient_bootstrap`,                   AUPRC and its difference, drawing runs and patients
:func:`patient_bootstrap_difference`         anew
===========================================  ======================================================
"""

from fp4jax.analysis.stats.agreement import kendall as kendall
from fp4jax.analysis.stats.describe import relative as relative, summary as summary
from fp4jax.analysis.stats.paired import compare as compare
from fp4jax.analysis.stats.patient_tests import compare_patients as compare_patients
from fp4jax.analysis.stats.patients import (
    Interval as Interval,
    Resampled as Resampled,
    patient_bootstrap as patient_bootstrap,
    patient_bootstrap_difference as patient_bootstrap_difference,
)
from fp4jax.analysis.stats.power import pairs_needed as pairs_needed, power_note as power_note
