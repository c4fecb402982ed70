"""Object storage with the S3 interface of OBS, simulated by moto."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

HOST: Final = "127.0.0.1"
REGION: Final = "eu-de"


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """Credentials of the object storage."""

    access_key: str
    secret_key: str = field(repr=False)


def serve(port: int) -> None:
    """Serve until the process ends."""
    # Imported here, because clients do not need the server.
    from moto.moto_server import werkzeug_app  # noqa: PLC0415
    from werkzeug.serving import make_server  # noqa: PLC0415

    app = werkzeug_app.DomainDispatcherApplication(werkzeug_app.create_backend_app)
    server = make_server(HOST, port, app, threaded=True)
    print(f"bucket (a simulation of OBS by moto): http://{HOST}:{server.port}", flush=True)  # noqa: T201  # program output
    server.serve_forever()


def client(url: str, keys: Keys, **config: Any) -> Any:
    """An S3 client that ignores AWS settings of the environment; `config` is botocore's."""
    # Imported here, because boto3 takes a second to import.
    import boto3  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415

    return boto3.session.Session().client(
        "s3",
        endpoint_url=url,
        region_name=REGION,
        aws_access_key_id=keys.access_key,
        aws_secret_access_key=keys.secret_key,
        config=Config(
            s3={"addressing_style": "path"}, proxies={}, retries={"max_attempts": 3}, **config
        ),
    )


def fill(
    url: str, keys: Keys, *, bucket: str, files: Iterable[Path], folder: str | None = None
) -> list[str]:
    """Upload the files into a new bucket; returns their addresses, `bucket:key`."""
    s3 = client(url, keys)
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
    addresses = []
    for file in files:
        key = f"{folder}/{file.name}" if folder else file.name
        s3.upload_file(str(file), bucket, key)
        addresses.append(f"{bucket}:{key}")
    s3.close()
    return addresses
