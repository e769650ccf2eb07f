"""The storage in virtual time: the same state machines that nodes run, over a seeded network with faults."""
