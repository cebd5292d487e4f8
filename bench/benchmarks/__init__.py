"""What `python -m bench` measures: a file for each name."""
