"""A fleet of real worker processes for tests: each line on stdin is an order to all of them.

Usage: fleet.py COUNT [warm]; prints a JSON list of what each process answered, a line per order.
"""

import json
import os
import sys
from typing import Any

# Imported once, before the forks: a hundred imports would measure Python, not the token.
import openstack.config  # noqa: F401  # see above

from ims_config.settings import Settings
from ims_worker.adapters.otc.clouds import OpenStackClouds
from ims_worker.errors import CloudProblem


def answer(clouds: OpenStackClouds, order: str) -> dict[str, Any]:
    try:
        if order == "quota":
            return {"used": clouds.service(None).quota().used}
        token = clouds._cloud(None).tokens.current()  # the token itself is what is tested
    except CloudProblem as problem:
        pause = problem.retry_after
        return {
            "problem": type(problem).__name__,
            "code": problem.failure.code,
            "pause": pause and pause.total_seconds(),
        }
    return {"token": token.digest}


def child(orders: int, answers: int, inherited: OpenStackClouds | None) -> None:
    clouds = inherited or OpenStackClouds(Settings())
    os.write(answers, b"ready\n")
    while order := os.read(orders, 64).decode():
        os.write(answers, json.dumps(answer(clouds, order.strip())).encode() + b"\n")


def main() -> None:
    count = int(sys.argv[1])
    inherited = None
    if sys.argv[2:] == ["warm"]:
        inherited = OpenStackClouds(Settings())
        answer(inherited, "quota")
    read_end, write_end = os.pipe()
    order_pipes: list[int] = []
    children: list[int] = []
    for _ in range(count):
        orders, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            for inherited_end in order_pipes:
                os.close(inherited_end)
            os.close(tell)
            child(orders, write_end, inherited)
            os._exit(0)
        os.close(orders)
        order_pipes.append(tell)
        children.append(pid)
    with os.fdopen(read_end) as answers:
        for _ in range(count):
            answers.readline()
        for order in sys.stdin:
            for tell in order_pipes:
                os.write(tell, order.encode())
            print(json.dumps([json.loads(answers.readline()) for _ in range(count)]), flush=True)
    for tell in order_pipes:
        os.close(tell)
    for pid in children:
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
