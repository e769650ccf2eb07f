"""How fast DIDA is, beside the bare Twisted of the same run and the peers that are there: see docs/performance.md."""
