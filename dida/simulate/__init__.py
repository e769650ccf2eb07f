"""The storage in virtual time: the very state machines that nodes run, over a seeded network with faults."""
