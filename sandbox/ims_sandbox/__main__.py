"""`python -m ims_sandbox demo|up|cloud|bucket`: try the product on one machine."""

import argparse
import json
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

_CLOUD_EXAMPLES: Final = """\
ims-import sandbox cloud --port 8774
  echo '{"job_seconds": [20, 40], "show_percent": false}' > slow.json
  ims-import sandbox cloud --options slow.json
  curl http://127.0.0.1:8774/admin/books
Options, faults and what else may be asked of it: docs/sandbox.md"""
_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the sandbox's commands in the foreground."""
    given = _parser().parse_args(argv)
    # A supervisor's SIGTERM takes the way of Ctrl-C, so that everything is cleaned up.
    for number in _ENDING:
        signal.signal(number, _interrupt)
    try:
        return int(given.command(given))
    except KeyboardInterrupt:
        return 130


def _interrupt(*_: Any) -> None:
    # Once is enough: a second one would interrupt the cleaning up.
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ims-import sandbox", description="A cloud to try it on, on this machine alone."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    demo = _add(commands, "demo", "import four image files and show how it goes", "ims-import demo")
    demo.set_defaults(command=_demo)
    up = _add(
        commands, "up", "keep the whole stack running until Ctrl-C",
        "ims-import sandbox up --workers 2",
    )  # fmt: skip
    up.add_argument("--workers", type=int, default=1, help="worker processes (%(default)s)")
    up.set_defaults(command=_up)
    cloud = _add(commands, "cloud", "only the stand-in for IAM and IMS", _CLOUD_EXAMPLES)
    cloud.add_argument("--port", type=int, help="port to listen on; without it a free one")
    cloud.add_argument(
        "--options", type=Path, help="a JSON file: how long jobs take, who may log in, …"
    )
    cloud.set_defaults(command=_cloud)
    bucket = _add(
        commands, "bucket", "only the object storage", "ims-import sandbox bucket --port 9000"
    )
    bucket.add_argument("--port", type=int, default=9000, help="port (%(default)s)")
    bucket.set_defaults(command=_bucket)
    return parser


def _add(commands: Any, name: str, what: str, examples: str) -> argparse.ArgumentParser:
    added: argparse.ArgumentParser = commands.add_parser(
        name,
        help=what,
        description=f"{what[0].upper()}{what[1:]}.",
        epilog=f"examples:\n  {examples}\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return added


# Each command imports what it needs: the bucket needs no cloud, the cloud no Celery.


def _demo(_: argparse.Namespace) -> int:
    from ims_sandbox.demo import demo  # noqa: PLC0415  # see above

    return demo()


def _up(given: argparse.Namespace) -> int:
    from ims_sandbox.demo import up  # noqa: PLC0415  # see above

    return up(workers=given.workers)


def _cloud(given: argparse.Namespace) -> int:
    from ims_sandbox.cloud import serve  # noqa: PLC0415  # see above

    told = json.loads(given.options.read_text()) if given.options else {}
    if given.port is not None:
        told["port"] = given.port
    serve(_cloud_options(told))
    return 0


def _cloud_options(told: Mapping[str, Any]) -> Any:
    """CloudOptions out of JSON, which knows no tuples."""
    from ims_sandbox.cloud.options import CloudOptions, Project  # noqa: PLC0415  # see above

    values: dict[str, Any] = {
        name: tuple(v) if isinstance(v, list) else v for name, v in told.items()
    }
    others = tuple(Project(**project) for project in told.get("other_projects", ()))
    return CloudOptions(**values | {"other_projects": others})


def _bucket(given: argparse.Namespace) -> int:
    from ims_sandbox.bucket import serve  # noqa: PLC0415  # see above

    serve(given.port)
    return 0


if __name__ == "__main__":
    sys.exit(main())
