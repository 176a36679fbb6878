"""Data and weights of the quickstart: files only, made by `scripts/build_quickstart_*.py`."""
