"""The clients of a system: of the storage (on a reactor, or with calls that block) and of the scheduler.

from dida.client import connect
"""

from dida.client.blocking import Client, connect
from dida.client.scheduler_client import SchedulerClient
from dida.client.storage_client import StorageClient

__all__ = ["Client", "SchedulerClient", "StorageClient", "connect"]
