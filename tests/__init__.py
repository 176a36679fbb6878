"""Tests mirror the package; `tiny` builds what they need."""
