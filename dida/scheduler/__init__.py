"""A scheduler: its workers, its runs, who gets which operator, who may start a run.

No options and no twistd service stand here; `dida.services.scheduler` has them.
"""
