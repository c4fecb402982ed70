"""The HTTP requests that IMS receives."""

import pytest

from ims_config.import_request import ImportRequest, parse_request
from ims_config.names import IMPORT_ID_TAG
from ims_worker.adapters.otc.payloads import to_wire

IMPORT_ID = "0b1f7ac2-3f1e-4d39-8f0c-2f7f7d1a9a11"
OUR_TAG = {"key": IMPORT_ID_TAG, "value": IMPORT_ID}


def a_request(**given: object) -> ImportRequest:
    return parse_request(
        {"name": "ubuntu", "image_url": "images:ubuntu.qcow2", "min_disk": 40, **given}
    )


def test_a_system_image_sends_only_the_fields_that_are_set() -> None:
    path, body = to_wire(a_request(description="d", os_version="x"), import_id=IMPORT_ID)

    assert path == "/v2/cloudimages/action"
    assert body == {
        "name": "ubuntu",
        "image_url": "images:ubuntu.qcow2",
        "min_disk": 40,
        "description": "d",
        "os_version": "x",
        "image_tags": [OUR_TAG],
    }


@pytest.mark.parametrize(
    ("given", "path", "kind"),
    [
        ({"kind": "system", "type": "BMS"}, "/v2/cloudimages/action", "BMS"),
        ({"kind": "iso", "os_version": "x"}, "/v2/cloudimages/action", "IsoImage"),
        ({"kind": "data"}, "/v1/cloudimages/dataimages/action", None),
        ({"kind": "quick", "os_version": "x"}, "/v2/cloudimages/quickimport/action", None),
        (
            {"kind": "quick", "type": "DataImage", "os_type": "Linux"},
            "/v2/cloudimages/quickimport/action",
            "DataImage",
        ),
    ],
)
def test_each_kind_has_its_path_and_type(
    given: dict[str, object], path: str, kind: str | None
) -> None:
    sent_to, body = to_wire(a_request(**given), import_id=IMPORT_ID)

    assert sent_to == path
    assert body.get("type") == kind
    assert OUR_TAG in body["image_tags"]


def test_tags_are_sent_as_objects_and_dropped_fields_are_not_sent() -> None:
    request = a_request(tags=["team=platform"], is_config_init=True, is_config=True, cloud="otc")

    _, body = to_wire(request, import_id=IMPORT_ID)

    assert body["image_tags"] == [{"key": "team", "value": "platform"}, OUR_TAG]
    assert body["is_config"] is True
    assert not {"tags", "is_config_init", "cloud", "kind"} & body.keys()


def test_a_data_disk_of_a_system_image_has_no_import_id_tag() -> None:
    disk = {"image_url": "images:d.qcow2", "min_disk": 100, "tags": ["a=b"], "name": "d"}

    _, body = to_wire(a_request(data_images=[disk]), import_id=IMPORT_ID)

    assert body["data_images"] == [
        {
            "name": "d",
            "image_url": "images:d.qcow2",
            "min_disk": 100,
            "image_tags": [{"key": "a", "value": "b"}],
        }
    ]
