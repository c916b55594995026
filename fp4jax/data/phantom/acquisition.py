"""Acquisition: from ideal brightness to the uint8 image that a scanner and an export would give.

In order: bias field, slice cross-talk and point spread, misregistration, gain of slices, ghost,
Rician noise, window.
"""

import dataclasses

import numpy as np

from fp4jax.data.phantom import fields
from fp4jax.data.phantom.geometry import Geometry
from fp4jax.extras import Extra


@dataclasses.dataclass(frozen=True, eq=False)
class Scanner:
    """What all sequences of one examination share.

    Attributes:
        bias: coefficients of the receive coil's log sensitivity.
        moves: whether the patient moved between the sequences.
    """

    bias: np.ndarray
    moves: bool


def draw_scanner(rng: np.random.Generator) -> Scanner:
    """A coil of log sensitivity sd 0.06 to 0.16; half of the patients move."""
    bias = fields.control_points(rng, (5, 5, 5), rng.uniform(0.06, 0.16))
    return Scanner(bias=bias, moves=bool(rng.random() < 0.5))


def acquire(
    brightness: np.ndarray, geometry: Geometry, scanner: Scanner, rng: np.random.Generator
) -> np.ndarray:
    """One sequence of one examination.

    Args:
        brightness: (slices, rows, columns), white matter = 1, air = 0.
        geometry: of the slices.
        scanner: shared by the sequences of a patient.
        rng: this sequence's own stream.

    Returns:
        uint8 (slices, rows, columns).
    """
    with Extra("study"):
        from scipy import ndimage

    bias = scanner.bias + fields.control_points(rng, (5, 5, 5), 0.04)
    image = brightness * np.exp(fields.evaluate(bias, geometry.axes))
    in_plane = rng.uniform(0.45, 1.05) / geometry.spacing[1]
    across = rng.uniform(0.25, 0.55)
    image = ndimage.gaussian_filter(image, (across, in_plane, in_plane), truncate=3.0)
    offset = rng.normal(0, 0.5, 2)
    if scanner.moves:
        for axis, millimetres in zip((1, 2), offset, strict=True):
            image = _shift(image, millimetres / geometry.spacing[axis], axis)
    gains = rng.normal(1, 0.02, len(image)).astype(np.float32)
    image = image * gains[:, None, None]
    has_ghost, ghost = rng.random() < 0.15, np.float32(rng.uniform(0.02, 0.06))
    if has_ghost:
        # An echo displaced by half the field of view along the phase encoding.
        image = image + ghost * np.roll(image, image.shape[1] // 2, 1)
    image = _rician(image, np.float32(rng.uniform(0.02, 0.055)), rng)
    top = np.percentile(image, rng.uniform(99.3, 99.9)) * rng.uniform(0.9, 1.25)
    return np.clip(image * np.float32(255 / top) + np.float32(0.5), 0, 255).astype(np.uint8)


def _shift(image: np.ndarray, pixels: float, axis: int) -> np.ndarray:
    """Linear interpolation between the two nearest whole shifts."""
    whole = int(np.floor(pixels))
    part = np.float32(pixels - whole)
    return (1 - part) * np.roll(image, whole, axis) + part * np.roll(image, whole + 1, axis)


def _rician(image: np.ndarray, sigma: np.float32, rng: np.random.Generator) -> np.ndarray:
    """Magnitude of the image with complex Gaussian noise."""
    real = image + sigma * rng.standard_normal(image.shape, dtype=np.float32)
    imaginary = sigma * rng.standard_normal(image.shape, dtype=np.float32)
    return np.sqrt(real * real + imaginary * imaginary)
