"""Benchmarks: each prints a table or stable JSON. See docs/reference/benchmarks.md."""
