"""The HTTP API: operations on imports, keys and webhooks, in JSON; see docs/api.md."""
