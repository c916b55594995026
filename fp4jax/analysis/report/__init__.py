"""Report of a study: one page that opens without a network, CSV tables and figures beside it."""

from fp4jax.analysis.report.of_folder import Report as Report, report_folder as report_folder
from fp4jax.analysis.report.write import write_report as write_report
