"""The process-creation service of a machine: its table of nodes, their processes, their logs.

No options and no twistd service stand here; `dida.services.pcs` has them.
"""
