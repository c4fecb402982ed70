"""The two ways a client reaches imports: ledger and broker directly, or the HTTP API."""
