"""Ages as people write them: 90d, 12h, 30min, 45s."""

import re
from datetime import timedelta
from typing import Final

from ims_producer.cli.exit_codes import Exit, stop

_UNITS: Final = {"d": "days", "h": "hours", "min": "minutes", "s": "seconds"}
_LONGEST: Final = timedelta(days=36500)


def age(text: str, option: str) -> timedelta:
    """The time an option names; ends the program with the rule where it names none."""
    found = re.fullmatch(r"(\d{1,9})(d|h|min|s)", text)
    if found is None:
        stop(Exit.USAGE, f"{option} {text}: must be a number and d, h, min or s, e.g. 90d")
    meant = timedelta(**{_UNITS[found[2]]: int(found[1])})
    if meant > _LONGEST:
        stop(Exit.USAGE, f"{option} {text}: must be at most {_LONGEST.days}d")
    return meant
