"""What schedulers and workers decide about runs: records, policies, the catalog of operators, repeated steps.

No Twisted, clock, file or socket is used here; `dida.scheduler` and `dida.worker` act on the decisions.
"""
