"""The report of a run: one HTML page that needs nothing else, read from what the run left in its folder."""

from understudy.evaluation.report.labels import METRICS, Label, direction, label
from understudy.evaluation.report.page import write_report

__all__ = ["METRICS", "Label", "direction", "label", "write_report"]
