"""A synthetic glioma cohort, made on the spot: for tests, demonstrations and studies without data.

Each patient is the ICBM152 average brain in a head of its own shape, in which a tumour grows and
pushes the tissue aside, scanned with four contrasts and outlined by an annotator::

    template -> geometry (warp) -> tumour (reaction-diffusion) -> anatomy (tissues at each pixel)
             -> contrast (brightness) -> acquisition (uint8 images);   tumour -> annotator (mask)

It needs NumPy and SciPy, and nibabel to write NIfTI files. Scores on it compare methods; they say
nothing about patients.
"""

from fp4jax.data.phantom.loading import GENERATOR_VERSION as GENERATOR_VERSION, load as load
from fp4jax.data.phantom.nifti import write_nifti as write_nifti
from fp4jax.data.phantom.overview import picture as picture
from fp4jax.data.phantom.record import Patient as Patient, patient as patient
from fp4jax.data.phantom.template import TEMPLATE_SHA256 as TEMPLATE_SHA256
