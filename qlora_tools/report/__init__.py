"""The report of a run as one HTML file."""

from .html import AnswerRow, Figure, Section, write_report

__all__ = ["AnswerRow", "Figure", "Section", "write_report"]
