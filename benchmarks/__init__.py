"""Measurements of DIDA beside bare Twisted and comparable systems: see docs/explanation/performance.md."""
