"""Adapters: all network I/O of a worker, sorted by technology."""
