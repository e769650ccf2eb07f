"""The configuration of a replica."""

from __future__ import annotations

from attrs import frozen


@frozen(kw_only=True)
class Config:
    """What the options of a storage node say. Times in seconds."""

    cluster: str = "dida"
    gossip_delay: float = 0.0
    replication_factor: int | None = None
    """Replicas that hold a key; None: all."""
    max_versions: int = 10
    write_concern: int = 1
    majority: bool = False
    ping_interval: float = 0.5
    ping_timeout: float = 2.0
    all_to_all: int = 16
    """Members of a view up to which each exchanges heartbeats with each; in a larger one with the lowest only."""
    start_deadline: float = 30.0
    session_ttl: float = 3600.0
    max_log: int = 100_000
    """Records that may be unconfirmed by some member before writes are refused."""
    max_log_bytes: int = 2**28
    """Bytes that such records may take, about."""
    max_waiting: int = 10_000
    max_memory: int | None = None
    """Bytes that the node may take before writes that need more are refused; None: whatever there is."""
    own_memory: int = 0
    """Bytes of those that it takes before it has a record."""

    @property
    def lease(self) -> float:
        """Seconds after which a member that was not heard from must be asked before anything is answered."""
        return 0.8 * self.ping_timeout

    @property
    def call_timeout(self) -> float:
        """Seconds for a message to a peer to be answered."""
        return self.ping_timeout
