"""A scheduler: its workers, its runs, the choice of workers, the admission of runs.

Options and the twistd service are in `dida.services.scheduler`.
"""
