"""Files: measured stacks in, results and figures out."""

from __future__ import annotations

from txm_stream.io.energy_list import read_energies
from txm_stream.io.measured_stack import MeasuredStack
from txm_stream.io.result_file import read_result, write_result
from txm_stream.io.stack_file import read_stack
from txm_stream.io.summary_figure import save_summary

__all__ = ["MeasuredStack", "read_energies", "read_result", "read_stack", "save_summary", "write_result"]
