"""Durations as people write and read them: 90d, 12h, 30min; 3 min 20 s."""

import re
from datetime import timedelta
from typing import Final

from ims_producer.cli.exit_codes import Exit, stop

_UNITS: Final = {"d": "days", "h": "hours", "min": "minutes", "s": "seconds"}
_LONGEST: Final = timedelta(days=36500)
_MINUTE: Final = 60
_HOUR: Final = 3600
_DAY: Final = 86400


def parse_duration(text: str, option: str) -> timedelta:
    """The duration that an option names; exits with the rule if the text is invalid."""
    match = re.fullmatch(r"(\d{1,9})(d|h|min|s)", text)
    if match is None:
        stop(Exit.USAGE, f"{option} {text}: must be a number and d, h, min or s, e.g. 90d")
    duration = timedelta(**{_UNITS[match[2]]: int(match[1])})
    if duration > _LONGEST:
        stop(Exit.USAGE, f"{option} {text}: must be at most {_LONGEST.days}d")
    return duration


def format_duration(seconds: float) -> str:
    """`42 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`."""
    whole = max(0, int(seconds))
    for unit, name, smaller, smaller_name in (
        (_DAY, "d", _HOUR, "h"),
        (_HOUR, "h", _MINUTE, "min"),
        (_MINUTE, "min", 1, "s"),
    ):
        if whole >= unit:
            rest = whole % unit // smaller
            return f"{whole // unit} {name}" + (f" {rest} {smaller_name}" if rest else "")
    return f"{whole} s"
