"""What a scheduler and a worker decide about runs: records, policies, who has which operators, steps executed again.

No Twisted, clock, file or socket is used here; `dida.scheduler` and `dida.worker` act on it.
"""
