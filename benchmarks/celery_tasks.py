"""The task of Celery's chains: it reads and writes a record in Redis. Imported only where Celery is."""

from __future__ import annotations

import importlib
import os
from typing import Any

_url = os.environ["DIDA_REDIS"]
app: Any = importlib.import_module("celery").Celery("bench", broker=_url, backend=_url)
_redis: Any = importlib.import_module("redis").Redis.from_url(_url)


@app.task  # type: ignore[untyped-decorator]
def step(previous: str, key: str) -> str:
    """Read the record, write it with one byte more (of at most a hundred), and pass on what came."""
    _redis.set(key, (_redis.get(key) or b"")[-99:] + b".")
    return previous + "."
