"""The storage node: the state machines of `dida.replication`, run on the reactor.

No options and no twistd service stand here; `dida.services.storage` has them.
"""
