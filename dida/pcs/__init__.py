"""The process creation service of a machine: its table of nodes, their processes, their logs.

Its options and its twistd service are in `dida.services.pcs`.
"""
