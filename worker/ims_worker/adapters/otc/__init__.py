"""Open Telekom Cloud: authentication, the IMS client, and the parsers of its responses."""
