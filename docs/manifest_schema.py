"""`python docs/manifest_schema.py` updates the JSON Schema of manifests, which editors use."""

import json
from pathlib import Path

from pydantic import JsonValue

from ims_config.import_request import ImportRequest
from ims_producer.manifest.parsing import Manifest

FILE = Path(__file__).with_name("manifest.schema.json")


def json_schema() -> dict[str, JsonValue]:
    schema = Manifest.model_json_schema()
    request = ImportRequest.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["$defs"] = request.pop("$defs", {})
    fields = request["properties"] | {
        "matrix": {
            "type": "object",
            "description": "One import for each combination, e.g. cloud: [otc-prod, otc-swiss].",
            "additionalProperties": {"type": "array", "minItems": 1},
        }
    }
    # No field is mandatory in an entry, because defaults may provide it.
    entry = {"type": "object", "properties": fields, "additionalProperties": False}
    schema["$defs"]["Entry"] = entry
    schema["properties"]["defaults"] |= {"$ref": "#/$defs/Entry"}
    schema["properties"]["images"]["items"] = {"$ref": "#/$defs/Entry"}
    for name in ("additionalProperties", "type"):
        schema["properties"]["defaults"].pop(name, None)
    copy: dict[str, JsonValue] = json.loads(json.dumps(schema))
    return copy


if __name__ == "__main__":
    FILE.write_text(json.dumps(json_schema(), indent=2) + "\n")
