"""Options of the sandbox cloud: logins, job durations, limits and the object storage."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A project and its only user; each project is one cloud of clouds.yaml."""

    id: str
    name: str
    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudOptions:
    """Times in seconds. Without `s3_endpoint` files are not checked and every job succeeds."""

    host: str = "127.0.0.1"
    port: int = 0
    region: str = "sandbox"
    domain: str = "OTC00000000001000000000"
    user: str = "sandbox"
    password: str = field(default="sandbox-password", repr=False)
    project: str = "sandbox_project"
    project_id: str = "5a9d0b0c5a9d4b0c8a9d0b0c5a9d0b0c"
    other_projects: tuple[Project, ...] = ()
    s3_endpoint: str | None = None
    s3_access_key: str = "sandbox"
    s3_secret_key: str = field(default="sandbox", repr=False)

    job_seconds: tuple[float, float] = (1.0, 3.0)
    latency_s: float = 0.0
    token_seconds: float = 86400.0
    lock_seconds: float = 900.0
    max_active: int = 40
    quota: int | None = None
    """Private images per project; None means no limit."""
    seed: int = 1
    show_percent: bool = True
    """`process_percent` in jobs; OTC's reference calls it reserved, Huawei's clouds send it."""
    unique_names: bool = False
    """Refuse an existing name (IMG.0009); whether OTC does so is not documented."""
    image_visible_after: float = 0.0
    """Seconds from the request until its image is listed; OTC's delay is unknown."""
    leave_killed: bool = True
    """Whether a failed job leaves a `killed` image."""

    @property
    def projects(self) -> tuple[Project, ...]:
        default = Project(
            id=self.project_id, name=self.project, user=self.user, password=self.password
        )
        return (default, *self.other_projects)


def parse_options(options: Mapping[str, Any]) -> CloudOptions:
    """CloudOptions from JSON, which has lists instead of tuples."""
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in options.items()
    }
    others = tuple(Project(**project) for project in options.get("other_projects", ()))
    return CloudOptions(**values | {"other_projects": others})
