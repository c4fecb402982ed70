"""What to do about each error code of IMS, IAM and the gateway, and a word for the engineer.

IMS answers nearly everything with HTTP 400, so the code decides and the status only helps out.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from ims_config.records import ErrorClass

PERMANENT: Final = ErrorClass.PERMANENT
RETRY: Final = ErrorClass.RETRY
AUTH: Final = ErrorClass.AUTH
BLOCKED: Final = ErrorClass.BLOCKED
LOOK_FIRST: Final = ErrorClass.LOOK_FIRST


@dataclass(frozen=True, slots=True)
class Advice:
    """What kind of error it is and what a platform engineer does about it."""

    error_class: ErrorClass
    hint: str


def _table(prefix: str, rows: Iterable[tuple[str, ErrorClass, str]]) -> Mapping[str, Advice]:
    return {
        f"{prefix}.{number}": Advice(error_class, hint)
        for numbers, error_class, hint in rows
        for number in numbers.split()
    }


_NAME = "Use a name of 1 to 128 letters, digits, spaces, '-', '_' or '.'."
_PROJECT = "Check project_name and project_id of the cloud's entry in clouds.yaml."
_KMS = "Check that KMS is enabled, the key exists and IMS may use it."
_FILE = "Check that the object exists, is a disk image and may be read by IMS."
_AGENCY = "Trouble inside IMS; it is tried again. Check IMS's agency for OBS if it stays."
_ACCOUNT = "Settle the account (real name, balance, payment, budget); then it goes on by itself."
_PERMIT = "Give the user the rights for IMS (ims:serverImages:create) and OBS read access."
_RETRIED = "Trouble inside the cloud; it is tried again."
_NEW_TOKEN = "A new token is fetched once; check the user and its rights if it stays."  # noqa: S105  # words
_CREDENTIALS = (
    "Correct user, password and domain in clouds.yaml; then run: ims-import resume [--cloud NAME]"
)

_IMG: Final = _table(
    "IMG",
    [
        ("0001 0007", PERMANENT, "The request's body is bad or empty: please report this."),
        ("0002 0003 0013 0062", PERMANENT, _NAME),
        (
            "0004 0054",
            PERMANENT,
            "Use a description of up to 1024 letters and digits; try without spaces.",
        ),
        (
            "0009",
            LOOK_FIRST,
            "An image of this name exists; it may be this import's own. If not, choose another.",
        ),
        ("0014", RETRY, _RETRIED),
        ("0015", BLOCKED, "The private image quota is used up: delete images or ask for more."),
        ("0016 0023 0061", RETRY, _RETRIED),
        ("0018", LOOK_FIRST, "IMS failed while taking the request; its image is looked for first."),
        ("0017 0175", PERMANENT, "Give the file as BUCKET:KEY without spaces."),
        ("0024 0117", PERMANENT, "Use type ECS or BMS."),
        ("0026", BLOCKED, _PERMIT),
        ("0027 0066 0086 0144", PERMANENT, "IMS does not know the image; check its id."),
        (
            "0028 0047 0092 0094",
            PERMANENT,
            "The image is protected, public or somebody else's; only its owner can change it.",
        ),
        ("0030 0067 0104 0145", PERMANENT, _PROJECT),
        ("0036 0037 0038 0039 0040", RETRY, _AGENCY),
        ("0046", LOOK_FIRST, "The image cannot be used at the moment; its state is looked up."),
        ("0055", PERMANENT, "Correct min_disk and min_ram: at least the disk inside the file."),
        ("0056 0122 0138", PERMANENT, "Give os_type and an os_version as IMS spells it."),
        ("0057", PERMANENT, _FILE + " Just after an upload: submit it again a little later."),
        ("0058", PERMANENT, "Copy the file to a bucket in the region of IMS."),
        ("0059", PERMANENT, "Files over 128 GB need kind quick (RAW or ZVHD2, up to 1 TB)."),
        (
            "0060",
            RETRY,
            "Too many IMS tasks at once; it is tried again. See MAX_ACTIVE_PER_PROJECT.",
        ),
        ("0064 0065", RETRY, "IMS could not ask IAM; it is tried again."),
        ("0068 0109", PERMANENT, "Correct the bucket's name in image_url."),
        ("0069", BLOCKED, "Let IMS read the bucket (bucket policy, Tenant Administrator for OBS)."),
        ("0070", PERMANENT, "An object of that name exists in the bucket already."),
        ("0072", PERMANENT, "Use VMDK, VHD, QCOW2, RAW, VHDX, QED, VDI, QCOW, ZVHD2 or ZVHD."),
        ("0087", AUTH, _NEW_TOKEN),
        ("0090", RETRY, "The image is still being made; try again when it is active."),
        ("0095 0097 0099 0100", BLOCKED, _KMS),
        ("0115 0116", PERMANENT, "Correct the tags: at most 10, of letters, digits, '_' and '-'."),
        ("0118", PERMANENT, "BMS images cannot be encrypted: leave cmk_id out."),
        ("0121", PERMANENT, _FILE),
        ("0123", PERMANENT, "Name each image file only once in a request."),
        ("0141 0212", PERMANENT, "Correct hw_firmware_type and architecture (arm needs uefi)."),
        ("0154", RETRY, "The enterprise project service is away; it is tried again."),
        ("0155", PERMANENT, "Correct enterprise_project_id, or the user's rights in it."),
        (
            "0156",
            LOOK_FIRST,
            "The image may exist outside its enterprise project; it is looked for.",
        ),
        (
            "0157 0158",
            PERMANENT,
            "Quick import takes RAW (with its .mf bitmap file) or ZVHD2 only.",
        ),
        ("0159", PERMANENT, "Give os_version: a quick import needs it."),
        ("0166", PERMANENT, "Give os_version: an ISO needs it."),
        ("0167", PERMANENT, "This is not possible for an image made from an ISO."),
        ("0187", RETRY, "KMS is busy; it is tried again."),
        ("0194", RETRY, "Too many images imported at once; it is tried again."),
        ("0238 0239 0241 0242", BLOCKED, _ACCOUNT),
        (
            "1075",
            RETRY,
            "Registering the file failed; it is tried again. Check the file if it stays.",
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
            "IAM has locked the account after wrong passwords; wait at least 15 minutes.",
        ),
        ("0063 0064 0066 0067", AUTH, _NEW_TOKEN),
        ("1061", AUTH, "This user needs a one-time code; use a user without API login protection."),
        ("0002 0003", PERMANENT, _PERMIT),
        (
            "0080 0082 0083",
            PERMANENT,
            "The user may not log in (disabled?); ask IAM's administrator.",
        ),
        ("0081", PERMANENT, "The user is for the console only; give it programmatic access."),
        ("0004", PERMANENT, "IAM does not know the user, domain or project of clouds.yaml."),
        ("0005", PERMANENT, "IAM sees a conflict; check the cloud's entry in clouds.yaml."),
        ("0007 0011 0072 0073", PERMANENT, "Check the cloud's entry in clouds.yaml."),
        ("0012", RETRY, "Too many requests to IAM; it is tried again later."),
        ("0006", RETRY, "Trouble inside IAM; it is tried again."),
    ],
)

_APIGW: Final = _table(
    "APIGW",
    [
        ("0101", PERMANENT, "There is no such API at this address; check image_endpoint_override."),
        ("0301 0305 0307", AUTH, _NEW_TOKEN + " For 0301 check the clock as well."),
        ("0302 0310 0801 0802", BLOCKED, _PERMIT),
        ("0308", RETRY, "The cloud throttles requests; it is tried again later."),
        (
            "0601 0606 0608 0610 0613",
            RETRY,
            "The cloud's gateway is in trouble; it is tried again.",
        ),
    ],
)

# APIGW.0201 is missing on purpose: one code for six statuses, so the status decides.
CATALOGUE: Final[Mapping[str, Advice]] = {**_IMG, **_IAM, **_APIGW}

# Answers to a create that do not say how far it got: its image is looked for first.
UNSURE_AFTER_CREATE: Final = frozenset({"IMG.0014", "IMG.0061"})


_READ_IT: Final = Advice(
    PERMANENT, "Read the cloud's message; correct the request and submit it again."
)
_THROTTLED: Final = Advice(RETRY, "The cloud throttles requests; it is tried again later.")
_BY_STATUS: Final = {
    int(HTTPStatus.UNAUTHORIZED): Advice(AUTH, _NEW_TOKEN),
    int(HTTPStatus.REQUEST_TIMEOUT): Advice(RETRY, _RETRIED),
    int(HTTPStatus.TOO_MANY_REQUESTS): _THROTTLED,
}


def advice_for(code: str, http_status: int | None) -> Advice:
    """The catalogue's advice; for a code it does not know, the HTTP status decides."""
    known = CATALOGUE.get(code.upper())
    if known is not None:
        return known
    if http_status is None or http_status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return _BY_STATUS.get(http_status or 0, _READ_IT)
    return Advice(RETRY, "The cloud is in trouble; it is tried again.")
