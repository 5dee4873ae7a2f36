"""Reports: plain records of a run, what is measured for them, and the table shown at the end."""

from icycle.report._measure import compare_latency, file_bytes
from icycle.report._records import Latency, NetworkFacts, Report, environment
from icycle.report._table import render

__all__ = ["Latency", "NetworkFacts", "Report", "compare_latency", "environment", "file_bytes", "render"]
