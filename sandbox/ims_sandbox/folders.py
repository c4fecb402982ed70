"""The temp folder of one stack: 0700, locked while its owner lives, swept up by the next one."""

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

_PREFIX: Final = "ims-import-stack-"
_LOCK: Final = "lock"


@contextmanager
def stack_folder() -> Iterator[Path]:
    """A folder for one stack, gone afterwards."""
    sweep_up()
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    try:
        with (folder / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep_up() -> None:
    """Remove what stacks left behind whose owner was killed; its lock went with it."""
    for lock in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_LOCK}"):
        try:
            with lock.open() as held:
                if _is_free(held):
                    shutil.rmtree(lock.parent, ignore_errors=True)
        except OSError:
            # Somebody else's, or gone already.
            continue


def _is_free(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
