"""Bytes on disk: bounded reads, strict header readers, the one place that writes weights."""
