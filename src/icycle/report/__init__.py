"""Reports: plain records of a run, what is measured for them, and the table shown at the end."""

from icycle.report._measure import compare_latency, file_bytes, latency_where_asked
from icycle.report._page import write_page
from icycle.report._parts import duration
from icycle.report._read import read_run
from icycle.report._records import AskedLatency, GroupFacts, Latency, NetworkFacts, Report, environment, group_facts
from icycle.report._runs import RunRecord, read_run_record
from icycle.report._table import render, summary
from icycle.report.figures import front

__all__ = [
    "AskedLatency",
    "GroupFacts",
    "Latency",
    "NetworkFacts",
    "Report",
    "RunRecord",
    "compare_latency",
    "duration",
    "environment",
    "file_bytes",
    "front",
    "group_facts",
    "latency_where_asked",
    "read_run",
    "read_run_record",
    "render",
    "summary",
    "write_page",
]
