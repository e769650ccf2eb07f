"""Measurements of DIDA beside bare Twisted and the peers that are there: see docs/explanation/performance.md."""
