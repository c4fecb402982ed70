"""Manifests: image imports as a file in git, with defaults and a matrix; read and checked here."""

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal

from pydantic import ConfigDict, Field, ValidationError

from ims_config.import_request import ImportRequest, InvalidRequest, Strict, parse_request
from ims_config.strict_yaml import InvalidYaml, parse_yaml

# More than any project has room for: a matrix multiplies quickly.
MOST_IMAGES: Final = 10_000
_NESTED: Final = "tags"


class InvalidManifest(ValueError):
    """A manifest breaks rules; `problems` has a line for each, beginning with the place."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


class Manifest(Strict):
    """What a manifest holds. Entries of `images` are import requests; each wins over `defaults`,
    and `tags` of both are put together. `matrix` makes an entry several: one for each combination.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", title="ims-import manifest")

    version: Literal[1]
    name: str = Field(
        "default",
        pattern=r"^[A-Za-z0-9._\-]{1,64}$",
        description="Tells manifests apart: what was in it before is found by this name.",
    )
    defaults: dict[str, Any] = Field(
        default_factory=dict, description="Fields of a request that every image has."
    )
    images: list[dict[str, Any]] = Field(
        min_length=1, description="A request each, and `matrix`: lists of values by field."
    )


def parse_manifest(text: str) -> Manifest:
    """A manifest from YAML or JSON, which is YAML too. Raises InvalidManifest."""
    try:
        given = parse_yaml(text)
    except InvalidYaml as exc:
        raise InvalidManifest([str(exc)]) from None
    if not isinstance(given, Mapping):
        raise InvalidManifest([f"manifest: must be an object; given: {type(given).__name__}"])
    try:
        return Manifest.model_validate(given)
    except ValidationError as exc:
        raise InvalidManifest(list(_problems(exc))) from None


def requests_of(manifest: Manifest) -> list[ImportRequest]:
    """Every request of a manifest, in its order. Raises InvalidManifest with all that is wrong."""
    requests: list[ImportRequest] = []
    problems: list[str] = []
    for place, given in _entries(manifest, problems):
        try:
            requests.append(parse_request(given))
        except InvalidRequest as exc:
            problems += [f"{place}: {problem}" for problem in exc.problems]
    problems += _twice(requests)
    if problems:
        raise InvalidManifest(problems)
    return requests


def _entries(manifest: Manifest, problems: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    count = 0
    for index, image in enumerate(manifest.images):
        merged = _merged(manifest.defaults, image)
        place = f"images[{index}]" + (f" {image['name']!r}" if image.get("name") else "")
        matrix = merged.pop("matrix", None) or {}
        if problem := _matrix_problem(matrix):
            problems.append(f"{place}: matrix: {problem}")
            continue
        for values in itertools.product(*matrix.values()):
            count += 1
            if count > MOST_IMAGES:
                problems.append(f"images: must be at most {MOST_IMAGES} with all matrices")
                return
            chosen = dict(zip(matrix, values, strict=True))
            where = "".join(f", {field} {value}" for field, value in chosen.items())
            yield place + where, merged | chosen


def _merged(defaults: Mapping[str, Any], image: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**defaults, **image}
    ours, theirs = defaults.get(_NESTED), image.get(_NESTED)
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        merged[_NESTED] = {**ours, **theirs}
    return merged


def _matrix_problem(matrix: Any) -> str | None:
    if not isinstance(matrix, Mapping):
        return f"must be an object of lists, e.g. cloud: [a, b]; given: {type(matrix).__name__}"
    for field, values in matrix.items():
        if not isinstance(values, list) or not values:
            return f"{field} must be a list with something in it; given: {values!r}"
    return None


def _twice(requests: Sequence[ImportRequest]) -> Iterator[str]:
    """What could not be told apart afterwards."""
    counts = Counter((request.cloud, request.name) for request in requests)
    for (cloud, name), count in counts.items():
        if count > 1:
            where = f"cloud {cloud}" if cloud else "the default cloud"
            yield f"images: {name!r} is there {count} times for {where}; names must differ"


def _problems(exc: ValidationError) -> Iterator[str]:
    for error in exc.errors(include_url=False):
        field = ".".join(str(part) for part in error["loc"]) or "manifest"
        rule = error["msg"].replace("Input should be", "must be")
        match error["type"]:
            case "missing":
                yield f"{field}: is mandatory"
            case "extra_forbidden":
                yield f"{field}: no such field; known: {', '.join(Manifest.model_fields)}"
            case _:
                yield f"{field}: {rule}; given: {error['input']!r:.80}"


def json_schema() -> dict[str, Any]:
    """The JSON Schema of manifests, for editors: what a file may hold, entry by entry."""
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
    # What is mandatory may stand in defaults.
    entry = {"type": "object", "properties": fields, "additionalProperties": False}
    schema["$defs"]["Entry"] = entry
    schema["properties"]["defaults"] |= {"$ref": "#/$defs/Entry"}
    schema["properties"]["images"]["items"] = {"$ref": "#/$defs/Entry"}
    for name in ("additionalProperties", "type"):
        schema["properties"]["defaults"].pop(name, None)
    made: dict[str, Any] = json.loads(json.dumps(schema))
    return made
