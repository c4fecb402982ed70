"""Valid objects for tests; a test names only what it is about."""

from typing import Any

from ims_config.import_request import ImportRequest, parse_request


def a_request(**differences: Any) -> ImportRequest:
    """A valid request for a system image."""
    return parse_request(a_body(**differences))


def a_body(**differences: Any) -> dict[str, Any]:
    """The same as the JSON that a user would send; a value of None leaves a field out."""
    body = {"name": "ubuntu-24.04", "image_url": "images:ubuntu.qcow2", "min_disk": 40}
    return {field: value for field, value in (body | differences).items() if value is not None}
