"""The replicas of the storage: gossip, commit, views, joining and leaving, as pure state machines.

Inputs go in, outputs come out. Nothing here uses Twisted, a clock, a file or a socket; `dida.storage` runs the state
machines.
"""
