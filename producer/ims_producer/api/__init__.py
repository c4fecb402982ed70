"""The HTTP door: asks for imports and tells how they stand, in JSON; see docs/api.md."""
