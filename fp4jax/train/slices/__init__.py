"""The task of slices: cohorts of 2D images of one size with one mask each."""

from fp4jax.train.slices.data import SliceData as SliceData
from fp4jax.train.slices.task import Slices as Slices
