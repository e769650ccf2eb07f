"""DIDA: chains of Python operators over replicated, versioned storage.

docs/architecture.md explains the packages and which of them may import which.
"""

__version__ = "0.1.0"
