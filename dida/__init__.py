"""DIDA: chains of Python operators over replicated, versioned storage.

The modules of this package are the pure core: no sockets, no clock, no Twisted.
`dida.protocols` speaks the line protocol, `dida.services` runs the core in a process.
"""

__version__ = "0.1.0"
