"""Benchmarks: each prints a table or stable JSON. ``python -m bench --help``; docs/benchmarks.md."""
