"""Segmentation metrics: exact on whole splits, or streamed on the device with stated bounds.

``evaluate`` gives all metrics of a split. During training ``zeros``, ``accumulate`` and
``summarize`` give the same names from batches, without keeping pixels; ``label_zeros``,
``accumulate_labels`` and ``summarize_labels`` do for several labels. ``region_report`` compares the
regions of a case, in mm.
"""

from fp4jax.metrics.calibration import (
    CLIP as CLIP,
    expected_calibration_error as expected_calibration_error,
    kl_from_baseline as kl_from_baseline,
)
from fp4jax.metrics.histogram import Bounds as Bounds, Histogram as Histogram
from fp4jax.metrics.labels import (
    accumulate_labels as accumulate_labels,
    label_zeros as label_zeros,
    region_logits as region_logits,
    summarize_labels as summarize_labels,
)
from fp4jax.metrics.overlap import (
    ImageSums as ImageSums,
    mean_of_batch_means as mean_of_batch_means,
)
from fp4jax.metrics.ranking import (
    Curve as Curve,
    Ranking as Ranking,
    average_precision as average_precision,
    roc_auc as roc_auc,
)
from fp4jax.metrics.report import (
    evaluate as evaluate,
    patient_dice as patient_dice,
    probabilities as probabilities,
)
from fp4jax.metrics.streaming import (
    Accumulated as Accumulated,
    accumulate as accumulate,
    from_histogram as from_histogram,
    summarize as summarize,
    zeros as zeros,
)
from fp4jax.metrics.surface import (
    hausdorff as hausdorff,
    surface_distances as surface_distances,
)
from fp4jax.metrics.sweep import (
    THRESHOLDS as THRESHOLDS,
    Sweep as Sweep,
    mean_sweep as mean_sweep,
    threshold_sweep as threshold_sweep,
)
from fp4jax.metrics.volumes import (
    mask_report as mask_report,
    mean_report as mean_report,
    region_masks as region_masks,
    region_report as region_report,
)
