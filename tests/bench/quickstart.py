"""Where the quickstart's space file lies."""

from pathlib import Path

QUICKSTART = Path(__file__).parents[2] / "search_spaces" / "quickstart.yaml"
