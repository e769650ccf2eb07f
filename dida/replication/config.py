"""The configuration of a replica."""

from __future__ import annotations

from attrs import frozen


@frozen(kw_only=True)
class Config:
    """The options of a storage node that its replica needs. Times in seconds, sizes in bytes."""

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
    """Members of a view up to which all exchange heartbeats with each other; in a larger view with the lowest only."""
    start_deadline: float = 30.0
    session_ttl: float = 3600.0
    max_log: int = 100_000
    """Records that some member may not have confirmed before writes are refused."""
    max_log_bytes: int = 2**28
    """Memory that such records may take, about."""
    max_waiting: int = 10_000
    max_memory: int | None = None
    """Memory that the node may take before writes that need more are refused; None: no limit."""
    own_memory: int = 0
    """Memory of those that the node takes before it has a record."""

    @property
    def lease(self) -> float:
        """Time after a member's last reply in which this node may answer without asking it again, in seconds."""
        return 0.8 * self.ping_timeout

    @property
    def call_timeout(self) -> float:
        """Time-out for the reply of a peer, in seconds."""
        return self.ping_timeout
