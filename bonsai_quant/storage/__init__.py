"""Bytes on disk: bounded reads, the strict header readers, and the one place that writes weights."""
