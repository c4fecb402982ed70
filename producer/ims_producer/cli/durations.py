"""Durations as people write and read them: 90d, 12h, 30min; 3 min 20 s."""

import re
from datetime import timedelta
from itertools import pairwise
from typing import Final

from ims_producer.cli.exit_codes import Exit, stop

_SECONDS: Final = {"d": 86400, "h": 3600, "min": 60, "s": 1}
_LONGEST: Final = timedelta(days=36500)


def parse_duration(text: str, option: str) -> timedelta:
    """The duration that an option names; exits with the rule if the text is invalid."""
    match = re.fullmatch(r"(\d{1,9})(d|h|min|s)", text)
    if match is None:
        stop(Exit.USAGE, f"{option} {text}: must be a number and d, h, min or s, e.g. 90d")
    duration = timedelta(seconds=int(match[1]) * _SECONDS[match[2]])
    if duration > _LONGEST:
        stop(Exit.USAGE, f"{option} {text}: must be at most {_LONGEST.days}d")
    return duration


def format_duration(seconds: float) -> str:
    """`42 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`."""
    whole = max(0, int(seconds))
    for (unit, size), (smaller_unit, smaller_size) in pairwise(_SECONDS.items()):
        if whole >= size:
            rest = whole % size // smaller_size
            return f"{whole // size} {unit}" + (f" {rest} {smaller_unit}" if rest else "")
    return f"{whole} s"
