"""Figures of a study, one per file; each takes plain data and returns a matplotlib figure."""

from fp4jax.analysis.figures.calibration import reliability_diagram
from fp4jax.analysis.figures.folds import cross_validation
from fp4jax.analysis.figures.patients import per_patient
from fp4jax.analysis.figures.precision_recall import precision_recall_curves
from fp4jax.analysis.figures.predictions import prediction_grid
from fp4jax.analysis.figures.seeds import multi_seed
from fp4jax.analysis.figures.sensitivity import recipe_sensitivity
from fp4jax.analysis.figures.style import data_url, png, save
from fp4jax.analysis.figures.training import training_curves

__all__ = [
    "cross_validation",
    "data_url",
    "multi_seed",
    "per_patient",
    "png",
    "precision_recall_curves",
    "prediction_grid",
    "recipe_sensitivity",
    "reliability_diagram",
    "save",
    "training_curves",
]
