"""The report on packs: a page, JSON, and a table."""

from .make import PAGE, report
from .records import Report

__all__ = ["PAGE", "Report", "report"]
