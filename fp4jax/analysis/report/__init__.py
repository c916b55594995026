"""Report of a study: one page that opens without a network, CSV tables and figures beside it."""

from fp4jax.analysis.report.write import write_report as write_report
