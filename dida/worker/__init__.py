"""A worker: operators found by name and executed, in threads, on the reactor or in processes; the request passed on.

No options and no twistd service stand here; `dida.services.worker` has them.
"""
