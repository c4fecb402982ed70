"""Bodies of the API name a cloud by any key of clouds.yaml, as requests do."""

import pytest
from pydantic import ValidationError

from ims_producer.api.admin import Cloud, NewKey
from ims_producer.api.schemas import Filters


@pytest.mark.parametrize("cloud", ["otc prod", "otc.eu-de", "öffentlich", "x" * 64])
def test_any_key_of_a_clouds_file_is_a_cloud(cloud: str) -> None:
    assert Cloud(cloud=cloud).cloud == cloud
    assert Filters(cloud=cloud).cloud == cloud
    assert NewKey.model_validate({"name": "ci", "scopes": ["read"], "clouds": [cloud]}).clouds


@pytest.mark.parametrize("cloud", ["", "a\x00b", "a\nb", "x" * 65])
def test_a_cloud_is_printable_and_short(cloud: str) -> None:
    for body in (Cloud, Filters):
        with pytest.raises(ValidationError, match=r"entry of clouds\.yaml"):
            body(cloud=cloud)
