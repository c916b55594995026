"""The paper's five claims, decided over patients: from a study's folder to tables and a page.

``Collected.of_folder`` takes the numbers out of a study's runs; everything else follows from
these alone: :func:`all_tables` the contrasts, the variances and the verdicts on the claims
(:mod:`fp4jax.analysis.claims.rules` has the rules), :func:`draw` two figures, :func:`filled` the
tables of a page.
"""

from fp4jax.analysis.claims.collected import Collected as Collected
from fp4jax.analysis.claims.drawings import draw as draw
from fp4jax.analysis.claims.page import filled as filled
from fp4jax.analysis.claims.tables import Tables as Tables, all_tables as all_tables
