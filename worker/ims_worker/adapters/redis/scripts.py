"""Loads the Lua scripts of this package."""

from importlib.resources import files
from typing import Final

from redis import Redis
from redis.commands.core import Script

_FOLDER: Final = files("ims_worker.adapters.redis") / "lua"


def load_script(redis: Redis, name: str) -> Script:
    """The script of a `.lua` file, which documents its keys, arguments and result."""
    return redis.register_script((_FOLDER / f"{name}.lua").read_text())
