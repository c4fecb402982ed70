"""Parses manifests: YAML files that list images, with defaults and a matrix, into requests."""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Literal

from pydantic import ConfigDict, Field, ValidationError

from ims_config.import_request import (
    ImportRequest,
    InvalidRequest,
    Strict,
    merge_requests,
    parse_request,
    usual_names,
)
from ims_config.strict_yaml import InvalidYaml, parse_yaml
from ims_config.validation import FieldError, InvalidInput, field_errors

# A matrix multiplies quickly; no project has room for more images.
MAX_IMAGES: Final = 10_000

Fields = dict[str, object]
"""Fields of a request before validation."""


class InvalidManifest(InvalidInput):
    """A manifest breaks rules; each line of `problems` starts with the place."""


class Manifest(Strict):
    """A list of images to import. Each entry of `images` is an import request, which overrides
    `defaults`; `tags` of both are merged. `matrix` creates one request for each combination.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", title="ims-import manifest")

    version: Literal[1]
    name: str = Field(
        "default",
        pattern=r"^[A-Za-z0-9._\-]{1,64}$",
        description="Identifies the manifest: earlier imports of a manifest are found by its name.",
    )
    defaults: Fields = Field(
        default_factory=dict, description="Fields of a request that apply to every image."
    )
    images: list[Fields] = Field(
        min_length=1, description="Import requests, each with an optional `matrix` of values."
    )


def parse_manifest(text: str, *, filename: str = "") -> Manifest:
    """A manifest from YAML or JSON; a file named `.json` must be JSON. Raises InvalidManifest."""
    try:
        raw: object = parse_yaml(text, filename=filename)
    except InvalidYaml as exc:
        raise InvalidManifest(str(exc)) from None
    if not isinstance(raw, Mapping):
        raise InvalidManifest(FieldError("manifest", "must be an object", type(raw).__name__))
    try:
        return Manifest.model_validate(raw)
    except ValidationError as exc:
        raise InvalidManifest(
            *field_errors(exc, root="manifest", known=Manifest.model_fields)
        ) from None


def requests_of(manifest: Manifest) -> list[ImportRequest]:
    """All requests of a manifest, in order. Raises InvalidManifest with all problems."""
    requests: list[ImportRequest] = []
    problems: list[str] = []
    for number, (place, fields) in enumerate(_entries(manifest, problems), start=1):
        if number > MAX_IMAGES:
            problems.append(f"images: must be at most {MAX_IMAGES} with all matrices")
            break
        try:
            requests.append(parse_request(fields))
        except InvalidRequest as exc:
            problems += [f"{place}: {problem}" for problem in exc.problems]
    problems += _duplicates(requests)
    if problems:
        raise InvalidManifest(*problems)
    return requests


def _entries(manifest: Manifest, problems: list[str]) -> Iterator[tuple[str, Fields]]:
    for index, image in enumerate(manifest.images):
        place = f"images[{index}]" + (f" {image['name']!r}" if image.get("name") else "")
        try:
            fields = merge_requests(manifest.defaults, image)
            combinations = _combinations(fields.pop("matrix", None) or {})
        except InvalidRequest as exc:
            problems += [f"{place}: {problem}" for problem in exc.problems]
            continue
        except ValueError as exc:
            problems.append(f"{place}: matrix: {exc}")
            continue
        for values in combinations:
            where = "".join(f", {field} {value}" for field, value in values.items())
            yield place + where, fields | values


def _combinations(matrix: object) -> Iterator[Fields]:
    """One set of fields for each combination of values. Raises ValueError with the rule."""
    if not isinstance(matrix, Mapping):
        raise ValueError(  # noqa: TRY004  # caught as a broken rule
            f"must be an object of lists, e.g. cloud: [a, b]; got {type(matrix).__name__}"
        )
    lists: dict[str, list[object]] = {}
    for field, values in usual_names(matrix).items():
        if not isinstance(values, list) or not values:
            raise ValueError(f"{field} must be a non-empty list; got {values!r}")
        lists[field] = values
    return (dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values()))


def _duplicates(requests: Sequence[ImportRequest]) -> Iterator[str]:
    """Requests that have the same cloud and name: a later plan could not tell them apart."""
    counts = Counter((request.cloud, request.name) for request in requests)
    for (cloud, name), count in counts.items():
        if count > 1:
            where = f"cloud {cloud}" if cloud else "the default cloud"
            yield f"images: {name!r} occurs {count} times for {where}; names must be unique"
