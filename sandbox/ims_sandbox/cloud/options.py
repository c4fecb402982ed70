"""What the sandbox cloud can be told: who may log in, how long jobs take, where the files are."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A project of one user; several make several clouds."""

    id: str
    name: str
    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudOptions:
    """Times in seconds. Without `s3_endpoint` files are not looked at: every job succeeds."""

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
    """Private images a project may have; None lets it make any number."""
    seed: int = 1
    show_percent: bool = True
    """`process_percent` in jobs; OTC's reference calls it reserved, Huawei's clouds give it."""
    unique_names: bool = False
    """Refuse a name that exists (IMG.0009); whether OTC does so is documented nowhere."""
    image_visible_after: float = 0.0
    """Seconds from the request until its image can be listed; what OTC takes is unknown."""
    leave_killed: bool = True
    """Whether a failed job leaves a `killed` image."""

    @property
    def projects(self) -> tuple[Project, ...]:
        mine = Project(
            id=self.project_id, name=self.project, user=self.user, password=self.password
        )
        return (mine, *self.other_projects)
