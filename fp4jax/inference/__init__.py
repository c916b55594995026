"""Inference: a model on whole examples, arrays in and arrays out.

alone = Alone(forward)                                # examples never depend on each other
logits = alone(variables, images)                     # (n, *space, k)
predict = functools.partial(alone.each, variables)    # for windows of larger images
found = segment_volume(predict, volume, window=(96, 96, 96))
"""

from fp4jax.inference.alone import Alone as Alone, Predict as Predict
from fp4jax.inference.components import without_small as without_small
from fp4jax.inference.mirroring import mirrored as mirrored
from fp4jax.inference.regions import (
    mean_probabilities as mean_probabilities,
    to_masks as to_masks,
    to_probabilities as to_probabilities,
)
from fp4jax.inference.sliding import (
    sliding_window as sliding_window,
    window_starts as window_starts,
    window_weights as window_weights,
)
from fp4jax.inference.volume import Segmentation as Segmentation, segment_volume as segment_volume
