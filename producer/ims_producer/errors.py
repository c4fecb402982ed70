"""What can be wrong between a client and the HTTP API, beside what the ledger raises.

* KeyRefused       the API key is missing, wrong, expired, revoked or not good for this
* ApiUnavailable   the API cannot be reached, or what it stands on is gone: try again
"""


class KeyRefused(Exception):
    """The API does not let this key do that; the message says why."""


class ApiUnavailable(Exception):
    """The API cannot be reached, or has no ledger or worker behind it."""
