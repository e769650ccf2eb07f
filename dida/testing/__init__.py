"""Support for the tests of operators: chains in the process of the test, a storage in memory, workers that die at any
moment.

    from dida.testing import every_crash, run_chain
"""

from dida.testing.chains import Crash, Execution, NotDeterministic, every_crash, execute_chain, run_chain
from dida.testing.memory import MemoryStorage

__all__ = ["Crash", "Execution", "MemoryStorage", "NotDeterministic", "every_crash", "execute_chain", "run_chain"]
