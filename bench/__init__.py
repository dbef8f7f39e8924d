"""Benches: one script a figure. Each writes results/<name>.json; `python -m bench` runs them and makes the table."""
