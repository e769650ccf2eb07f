"""What a storage node decides: gossip, commit, views, joining, leaving, as pure state machines.

Inputs go in, outputs come out. No Twisted, clock, file or socket is used here; `dida.storage` runs the machines.
"""
