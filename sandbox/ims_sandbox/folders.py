"""The temporary folder of a stack: mode 0700, locked by its owner, removed when abandoned."""

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
    """A folder for one stack; it is removed afterwards."""
    remove_abandoned()
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    try:
        with (folder / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned() -> None:
    """Remove folders whose owner was killed; the kernel released their locks."""
    for lock in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_LOCK}"):
        try:
            with lock.open() as file:
                if _is_free(file):
                    shutil.rmtree(lock.parent, ignore_errors=True)
        except OSError:
            # The folder belongs to another user or no longer exists.
            continue


def _is_free(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
