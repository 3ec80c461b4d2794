"""The report on packs: a page, JSON, and a table."""

from .make import report
from .records import Report

__all__ = ["Report", "report"]
