"""Catalogue of the error codes of IMS, IAM and the API gateway: class, hint, special meaning.

The only module that knows these codes. IMS answers nearly every error with HTTP 400, so the code
decides; the HTTP status only decides about unknown codes.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from http import HTTPStatus
from typing import Final

from ims_config.records import ErrorClass

PERMANENT: Final = ErrorClass.PERMANENT
RETRY: Final = ErrorClass.RETRY
AUTH: Final = ErrorClass.AUTH
BLOCKED: Final = ErrorClass.BLOCKED
LOOK_FIRST: Final = ErrorClass.LOOK_FIRST


class Meaning(Enum):
    """What a code says beyond its class, for callers that react to it."""

    JOB_NOT_FOUND = auto()
    IMAGE_NOT_FOUND = auto()
    TOO_MANY_JOBS = auto()
    """The project may not create further jobs for now."""
    TOO_MANY_CALLS = auto()
    """The project may not make any API call for now."""
    UNSURE_AFTER_CREATE = auto()
    """As the answer to a create: the image may have been created nevertheless."""
    NAME_EXISTS = auto()
    ACCOUNT_LOCKED = auto()


JOB_NOT_FOUND: Final = Meaning.JOB_NOT_FOUND
IMAGE_NOT_FOUND: Final = Meaning.IMAGE_NOT_FOUND
TOO_MANY_JOBS: Final = Meaning.TOO_MANY_JOBS
TOO_MANY_CALLS: Final = Meaning.TOO_MANY_CALLS
UNSURE: Final = Meaning.UNSURE_AFTER_CREATE


@dataclass(frozen=True, slots=True)
class Advice:
    """What kind of error it is and what a platform engineer does about it."""

    error_class: ErrorClass
    hint: str
    meaning: Meaning | None = None


_Row = tuple[str, ErrorClass, str] | tuple[str, ErrorClass, str, Meaning]


def _table(prefix: str, rows: Iterable[_Row]) -> Mapping[str, Advice]:
    return {
        f"{prefix}.{number}": Advice(*advice)
        for numbers, *advice in rows
        for number in numbers.split()
    }


_NAME = "Use a name of 1 to 128 letters, digits, spaces, '-', '_' or '.'."
_PROJECT = "Check project_name and project_id of the cloud's entry in clouds.yaml."
_KMS = "Check that KMS is enabled, the key exists and IMS may use it."
_FILE = "Check that the object exists, is a disk image and is readable for IMS."
_IMAGE = "IMS does not know the image; check its id."
_AGENCY = (
    "IMS internal error; retrying automatically. If it persists, check the IMS agency for OBS."
)
_ACCOUNT = (
    "Resolve the account problem (verification, balance, payment, budget); "
    "the import then continues by itself."
)
_PERMIT = "Grant the user the IMS permission ims:serverImages:create and read access to OBS."
_RETRIED = "Temporary error in the cloud; retrying automatically."
_RENEWED = (
    "ims-import fetches one new token. If the error persists, check the user and its permissions."
)
_CREDENTIALS = (
    "Correct user, password and domain in clouds.yaml; then run: ims-import resume [--cloud NAME]"
)
_CLOUD_ENTRY = "Check the cloud's entry in clouds.yaml."
_READ_IT = "Read the cloud's message; correct the request and submit it again."
_REPORT = "ims-import makes no such call; report this as a bug, with the request id."
_SERVER = "This code is about images of servers and backups. " + _REPORT
_EXPORT = "This code is about the export of images. " + _REPORT
_UPDATE = "This code is about changes of an image's properties. " + _REPORT
_MARKET = "This code is about marketplace images. " + _REPORT
_REPLICA = "This code is about copies of images in other regions. " + _REPORT
_SHARE = "Check the project that the image is shared with, and that the image may be shared."
_TOO_LARGE = "The token may be too large for a header; use a user with fewer roles and projects."
_REDIRECTED = (
    "Not IMS but a proxy, login page or other service answered with a redirect, which is not "
    "followed: check auth_url, image_endpoint_override and the proxy of the worker."
)
_THROTTLED = "The cloud throttles requests; retrying automatically."

_IMG: Final = _table(
    "IMG",
    [
        ("0001 0007", PERMANENT, "IMS cannot read the request body; report this as a bug."),
        ("0002 0003 0013 0062", PERMANENT, _NAME),
        (
            "0004 0054",
            PERMANENT,
            "Use a description of up to 1024 letters and digits, without < > and line breaks.",
        ),
        (
            "0009",
            LOOK_FIRST,
            "An image of this name exists: use another name, or delete that image.",
            Meaning.NAME_EXISTS,
        ),
        (
            (
                "0005 0006 0008 0011 0012 0019 0020 0022 0029 0033 0063 0111 0119 0120 0126 0127 "
                "0134 0140 0153 0164 0180 0183 0184 0186 0190 0193 0195 0198"
            ),
            PERMANENT,
            _SERVER,
        ),
        ("0133 0165 0182 0185", BLOCKED, _SERVER),
        ("0010 0032 0110 0132 0136 0137 0139 0176 0181 0188", RETRY, _SERVER),
        ("0071 0073 0074 0075 0077 0079 0080 0081 0128 0130 0160", PERMANENT, _EXPORT),
        ("0148", RETRY, "The image is being exported; retrying automatically."),
        ("0041 0076 0089 0098 0135 0177 0178", PERMANENT, _SHARE),
        ("0088", BLOCKED, "The quota of shares is exhausted: end a share or raise the quota."),
        ("0112 0113 0114 0179", RETRY, _RETRIED),
        ("0096 0189 0196 0197", PERMANENT, _REPLICA),
        ("0101 0102 0103", BLOCKED, _REPLICA),
        ("0034 0168 0169 0170 0171 0172 0173 0174 0192", PERMANENT, _UPDATE),
        ("0035", LOOK_FIRST, _UPDATE),
        ("0045 0053 0191", RETRY, _RETRIED),
        ("0083 0084 0085 0125 0162 0163", PERMANENT, _MARKET),
        (
            "0021",
            PERMANENT,
            "IMS does not know this source; image_url must name an object.",
        ),
        ("0031", PERMANENT, _IMAGE),
        ("0105", PERMANENT, "IMS does not support this call in this region or for this image."),
        ("0014", RETRY, _RETRIED, UNSURE),
        ("0015", BLOCKED, "The private image quota is exhausted: delete images or raise it."),
        ("0016", RETRY, _RETRIED),
        (
            "0018",
            LOOK_FIRST,
            "IMS failed while accepting the request; ims-import searches for the image first.",
        ),
        ("0017 0175", PERMANENT, "Write the file as BUCKET:KEY without spaces."),
        ("0023", RETRY, _RETRIED, JOB_NOT_FOUND),
        ("0024 0117", PERMANENT, "Use type ECS or BMS."),
        ("0026 0161", BLOCKED, _PERMIT),
        ("0027 0066 0086 0144", PERMANENT, _IMAGE, IMAGE_NOT_FOUND),
        (
            "0028 0047 0092 0094",
            PERMANENT,
            "The image is protected, public or owned by another project; its owner can change it.",
        ),
        ("0025 0030 0067 0104 0106 0108 0145", PERMANENT, _PROJECT),
        ("0036 0037 0038 0039 0040", RETRY, _AGENCY),
        ("0046", LOOK_FIRST, "The image is not usable now; ims-import checks its state."),
        ("0055", PERMANENT, "Set min_disk to at least the virtual disk size; check min_ram."),
        ("0056 0122 0138", PERMANENT, "Set os_type, and os_version as IMS spells it."),
        ("0057", PERMANENT, _FILE + " After a recent upload, submit again a little later."),
        ("0058", PERMANENT, "Copy the file to a bucket in the region of IMS."),
        ("0059", PERMANENT, "Use kind quick (RAW or ZVHD2, up to 1 TB) for files over 128 GB."),
        (
            "0060",
            RETRY,
            "Too many IMS jobs at once; retrying automatically. See MAX_ACTIVE_PER_PROJECT.",
            TOO_MANY_JOBS,
        ),
        ("0061", RETRY, _RETRIED, UNSURE),
        ("0064 0065", RETRY, "IMS cannot reach IAM; retrying automatically."),
        ("0068 0109", PERMANENT, "Correct the bucket name in image_url."),
        (
            "0069",
            BLOCKED,
            "Grant IMS read access to the bucket (bucket policy, Tenant Administrator for OBS).",
        ),
        ("0070", LOOK_FIRST, "An object of that name already exists in the bucket."),
        ("0072", PERMANENT, "Use VMDK, VHD, QCOW2, RAW, VHDX, QED, VDI, QCOW, ZVHD2 or ZVHD."),
        ("0087", AUTH, _RENEWED),
        ("0090", RETRY, "IMS is still creating the image; retrying automatically."),
        ("0095 0097 0099 0100", BLOCKED, _KMS),
        ("0115 0116", PERMANENT, "Correct the tags: at most 10, of letters, digits, '_' and '-'."),
        ("0118", PERMANENT, "Remove cmk_id: BMS images cannot be encrypted."),
        ("0121", PERMANENT, _FILE),
        ("0123", PERMANENT, "Name each image file only once in a request."),
        ("0141 0212", PERMANENT, "Correct hw_firmware_type and architecture (arm needs uefi)."),
        (
            "0154",
            RETRY,
            "The enterprise project service is unavailable; retrying automatically.",
        ),
        ("0155", PERMANENT, "Correct enterprise_project_id, or the user's permissions in it."),
        (
            "0156",
            LOOK_FIRST,
            "The image may exist outside its enterprise project; ims-import searches for it.",
        ),
        ("0157 0158", PERMANENT, "Use RAW (with its .mf bitmap file) or ZVHD2 for kind quick."),
        ("0159", PERMANENT, "Set os_version: a quick import needs it."),
        ("0166", PERMANENT, "Set os_version: an ISO needs it."),
        ("0167", PERMANENT, "IMS does not support this for an image made from an ISO."),
        ("0187", RETRY, "KMS is busy; retrying automatically."),
        ("0194", RETRY, "Too many image imports at once; retrying automatically.", TOO_MANY_JOBS),
        ("0238 0239 0241 0242", BLOCKED, _ACCOUNT),
        (
            "1075",
            RETRY,
            "IMS failed to register the file; retrying automatically. If it persists, check it.",
        ),
    ],
)

_IAM: Final = _table(
    "IAM",
    [
        ("0001 0062", AUTH, _CREDENTIALS),
        (
            "0061",
            AUTH,
            "Wait at least 15 minutes: IAM locked the account after wrong passwords.",
            Meaning.ACCOUNT_LOCKED,
        ),
        ("0063 0064 0066 0067", AUTH, _RENEWED),
        ("1061", AUTH, "Use a user without login protection: this one needs a one-time code."),
        ("0002 0003", BLOCKED, _PERMIT),
        (
            "0080 0082 0083",
            BLOCKED,
            "Ask the IAM administrator to enable the user: it may not log in.",
        ),
        ("0081", BLOCKED, "Grant the user programmatic access: it may only use the console."),
        ("0004", PERMANENT, "Check user, domain and project in clouds.yaml: IAM has no such one."),
        ("0005", PERMANENT, "IAM reports a conflict; check the cloud's entry in clouds.yaml."),
        ("0007 0011 0072 0073", PERMANENT, _CLOUD_ENTRY),
        ("0012", RETRY, "Too many requests to IAM; retrying automatically."),
        ("0006", RETRY, "IAM internal error; retrying automatically."),
    ],
)

_APIGW: Final = _table(
    "APIGW",
    [
        (
            "0101 0103",
            PERMANENT,
            "Check image_endpoint_override: this address has no such API.",
        ),
        (
            "0104 0105 0106 0602 0607 0612",
            PERMANENT,
            "The API gateway is misconfigured; report it to the cloud's support.",
        ),
        ("0303 0311", AUTH, _RENEWED),
        ("0301 0305 0307", AUTH, _RENEWED + " For 0301, check the clock as well."),
        ("0302 0304 0306 0310 0401 0402 0404 0501 0502 0801 0802", BLOCKED, _PERMIT),
        ("0308", RETRY, _THROTTLED, TOO_MANY_CALLS),
        ("0601 0605 0606 0608 0609 0610 0611 0613 0705", RETRY, _RETRIED),
    ],
)

# Codes of answers without a code: `HTTP.` and the status.
_HTTP: Final = _table(
    "HTTP",
    [
        ("300 301 302 303 307 308", BLOCKED, _REDIRECTED),
        ("401", AUTH, _RENEWED),
        ("403", BLOCKED, _PERMIT),
        ("404", PERMANENT, "Check the endpoint: not IMS but a proxy or another service answered."),
        ("413 414 431 494", PERMANENT, _TOO_LARGE),
        (
            "418",
            BLOCKED,
            "A firewall blocks this worker; contact the cloud's support.",
        ),
        ("408", RETRY, _RETRIED),
        ("429", RETRY, _THROTTLED, TOO_MANY_CALLS),
    ],
)

CATALOGUE: Final[Mapping[str, Advice]] = {**_IMG, **_IAM, **_APIGW, **_HTTP}

# Customers' own gateways and newer services of the vendor write APIG.
_GATEWAY: Final = re.compile(r"APIGW?\.(?=\d{4}$)", re.IGNORECASE)
# A code with six statuses, of which the 5xx are no errors of the request.
_UNLESS_5XX: Final = {"APIGW.0201": Advice(PERMANENT, _TOO_LARGE)}
_NO_CODE: Final = Advice(PERMANENT, _READ_IT)
_UNLISTED: Final = Advice(PERMANENT, "ims-import does not know this code. " + _READ_IT)
_FORBIDDEN: Final = CATALOGUE["HTTP.403"]
_SERVER_ERROR: Final = Advice(RETRY, "The cloud has an internal error; retrying automatically.")
_UNLISTED_5XX: Final = Advice(
    RETRY, "ims-import does not know this code of an internal error; retrying automatically."
)


def advice_for(code: str, http_status: int | None) -> Advice:
    """The catalogue's advice; for an unknown code, the HTTP status decides.

    With status 403 nearly any code is about permissions, which a person can grant.
    """
    if advice := CATALOGUE.get(_listed(code)):
        forbidden = http_status == HTTPStatus.FORBIDDEN and advice.error_class is PERMANENT
        return _FORBIDDEN if forbidden else advice
    known, without_code = _UNLESS_5XX.get(_listed(code)), code.startswith("HTTP.")
    if http_status is not None and http_status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return _SERVER_ERROR if without_code or known else _UNLISTED_5XX
    by_status = CATALOGUE.get(f"HTTP.{http_status}")
    return known or by_status or (_NO_CODE if without_code else _UNLISTED)


def meaning_of(code: str) -> Meaning | None:
    """The special meaning of a code, if it has one."""
    advice = CATALOGUE.get(_listed(code))
    return advice.meaning if advice else None


def from_gateway(code: str) -> bool:
    """Whether the API gateway itself answered, so that IMS never saw the request."""
    return _GATEWAY.match(code) is not None


def _listed(code: str) -> str:
    """The code as the catalogue spells it."""
    return _GATEWAY.sub("APIGW.", code).upper()
