"""Adapters: everything that talks to a network, sorted by technology."""
