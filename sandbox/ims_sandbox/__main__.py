"""`python -m ims_sandbox demo|up|cloud|bucket`: runs the product on one machine."""

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_CLOUD_EXAMPLES: Final = """\
ims-import sandbox cloud --port 8774
  echo '{"job_seconds": [20, 40], "show_percent": false}' > slow.json
  ims-import sandbox cloud --options slow.json
  curl http://127.0.0.1:8774/admin/books
Options, faults and admin calls: docs/sandbox.md"""
_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the sandbox's commands in the foreground."""
    arguments = _parser().parse_args(argv)
    # A supervisor's SIGTERM is handled like Ctrl-C, so that everything is cleaned up.
    for number in _ENDING:
        signal.signal(number, _interrupt)
    try:
        return int(arguments.command(arguments))
    except KeyboardInterrupt:
        return 130


def _interrupt(*_: object) -> None:
    # A second signal must not interrupt the cleanup.
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ims-import sandbox", description="A simulated cloud on this machine."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    demo = _add(
        commands, "demo", "import four image files and show the progress", "ims-import demo"
    )
    demo.set_defaults(command=_demo)
    up = _add(
        commands, "up", "run the whole stack until Ctrl-C", "ims-import sandbox up --workers 2"
    )
    up.add_argument("--workers", type=int, default=1, help="worker processes (%(default)s)")
    up.set_defaults(command=_up)
    cloud = _add(commands, "cloud", "run only the simulation of IAM and IMS", _CLOUD_EXAMPLES)
    cloud.add_argument("--port", type=int, help="port to listen on (default: a free one)")
    cloud.add_argument("--options", type=Path, help="a JSON file with job durations, logins, …")
    cloud.set_defaults(command=_cloud)
    bucket = _add(
        commands, "bucket", "run only the object storage", "ims-import sandbox bucket --port 9000"
    )
    bucket.add_argument("--port", type=int, default=9000, help="port (%(default)s)")
    bucket.set_defaults(command=_bucket)
    return parser


def _add(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    summary: str,
    examples: str,
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"examples:\n  {examples}\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


# Each command imports only what it needs: the bucket needs no cloud, the cloud no Celery.


def _demo(_: argparse.Namespace) -> int:
    from ims_sandbox.demo import demo  # noqa: PLC0415  # see above

    return demo()


def _up(arguments: argparse.Namespace) -> int:
    from ims_sandbox.demo import up  # noqa: PLC0415  # see above

    return up(workers=arguments.workers)


def _cloud(arguments: argparse.Namespace) -> int:
    from ims_sandbox.cloud import serve  # noqa: PLC0415  # see above
    from ims_sandbox.cloud.options import parse_options  # noqa: PLC0415  # see above

    options = json.loads(arguments.options.read_text()) if arguments.options else {}
    if arguments.port is not None:
        options["port"] = arguments.port
    serve(parse_options(options))
    return 0


def _bucket(arguments: argparse.Namespace) -> int:
    from ims_sandbox.bucket import serve  # noqa: PLC0415  # see above

    serve(arguments.port)
    return 0


if __name__ == "__main__":
    sys.exit(main())
