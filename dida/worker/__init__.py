"""A worker: it finds operators by name, executes them in threads, on loops or in processes, and hands requests on.

Options and the twistd service are in `dida.services.worker`.
"""
