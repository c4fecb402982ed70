"""What anybody would write first: a FastAPI route that only sends a Celery task and forgets it."""

import os
from typing import Any

from celery import Celery
from fastapi import FastAPI

app = FastAPI()
sender = Celery(broker=os.environ["BARE_BROKER"])


@app.post("/imports", status_code=202)
def submit(body: dict[str, Any]) -> dict[str, str]:
    return {"id": sender.send_task("bare.import", [body], queue="bare").id}
