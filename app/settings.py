"""The settings of an operator: read once from environment variables (prefix `PALATE_`), then immutable."""

import os
from collections.abc import Mapping
from datetime import timedelta
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from app.engine.hyperparameters import Hyperparameters
from app.engine.losses.base import Loss
from app.engine.losses.declare import declare
from app.engine.recipe import Recipe

_DATABASES = {"sqlite", "sqlite+pysqlite", "postgresql", "postgresql+psycopg"}  # one driver each


def _seconds(value: object) -> object:
    """A bare number from the environment means seconds."""
    try:
        return timedelta(seconds=float(value)) if isinstance(value, str) else value
    except ValueError:
        return value  # an ISO 8601 duration, or invalid: pydantic has the better message


Duration = Annotated[timedelta, BeforeValidator(_seconds), Field(gt=timedelta(0))]

DATABASE_FILE = "palate.db"
"""Name of the SQLite file in the data folder."""


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RatingScale(_Group):
    """The scale of stored ratings; predictions are clipped to it."""

    min: float = Field(0.5, allow_inf_nan=False, description="Lowest rating.")
    max: float = Field(5.0, allow_inf_nan=False, description="Highest rating.")
    step: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Distance between adjacent ratings; if unset, any value in the range is a rating.",
    )

    @model_validator(mode="after")
    def _is_a_scale(self) -> Self:
        if self.min >= self.max:
            raise ValueError(f"rating min {self.min} must be below rating max {self.max}")
        if self.step is not None and not self._is_on_a_step(self.max):
            raise ValueError(f"rating max {self.max} is not min {self.min} plus a multiple of step {self.step}")
        return self

    def __str__(self) -> str:
        return f"{self.min:g} to {self.max:g}" + ("" if self.step is None else f" in steps of {self.step:g}")

    def complaint(self, value: float) -> str | None:
        """Why `value` is not a rating on this scale, or None if it is."""
        if not self.min <= value <= self.max:  # true for NaN, which fails every comparison
            return f"must be a number from {self.min:g} to {self.max:g}"
        if self.step is not None and not self._is_on_a_step(value):
            return f"must be {self.min:g} plus a multiple of {self.step:g}"
        return None

    def _is_on_a_step(self, value: float) -> bool:
        assert self.step is not None
        steps = (value - self.min) / self.step
        return abs(steps - round(steps)) < 1e-6


class RetrainPolicy(_Group):
    """When the trainer starts a run by itself. The minimum interval makes one run of a burst of ratings."""

    enabled: bool = Field(True, description="Whether the trainer starts runs automatically.")
    min_changes: int = Field(100, ge=1, description="Number of changed ratings that triggers a run.")
    min_interval: Duration = Field(
        timedelta(seconds=30), description="Minimum time between the starts of two automatic runs."
    )
    max_interval: Duration = Field(
        timedelta(hours=1), description="Maximum time before a changed rating triggers a run."
    )


class Training(_Group):
    """The trainer process, and the defaults of its runs."""

    n_threads: int | None = Field(None, ge=1, description="Threads of the fit; if unset, one per processor.")
    lease: Duration = Field(
        timedelta(seconds=10),
        description="Lease of a run: a trainer that sends no heartbeat for this long loses the run to another one.",
    )
    poll_interval: Duration = Field(timedelta(seconds=0.25), description="How often an idle trainer polls for a run.")
    heartbeat_file: Path | None = Field(
        None, description="Heartbeat file: the trainer touches it every second, for health checks of containers."
    )
    gate_margin: float = Field(
        0.02,
        ge=0,
        description="Fraction by which the hold-out error of a new version may exceed that of the active version.",
    )
    warm_start_min_ratings: int = Field(
        1_000_000,
        ge=1,
        description="Minimum number of ratings for a warm start, which continues from the active version's factors.",
    )
    warm_start_epochs: int = Field(1, ge=1, le=1000, description="Epochs of a warm-started fit.")
    warm_start_fraction: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Fraction of the unchanged ratings that a warm-started fit uses, besides all changed ratings.",
    )
    warm_start_max_drift: float = Field(
        0.005,
        ge=0,
        description="Fraction by which the error may grow over successive warm starts before a run starts cold.",
    )
    posterior_time_limit: Duration = Field(
        timedelta(minutes=10),
        description="With `posterior` = `auto`, a run averages over the posterior if this should take no longer.",
    )
    cold_start_every: int = Field(
        10, ge=1, description="At least every n-th version is trained from scratch; 1: every version."
    )
    loss: str = Field("squared", description="Default loss: a name or an expression (docs/losses.md).")
    penalty: str = Field("l2", description="Default penalty on the parameters: a name or an expression.")
    link: Literal["identity", "sigmoid", "exp"] | None = Field(
        None, description="Default link from score to predicted rating; if unset, the link of the loss."
    )
    loss_parameters: dict[str, float] = Field(
        {}, description='Parameters of the default loss as JSON, e.g. {"delta": 1.5}.'
    )


class Versions(_Group):
    """Published model versions on disk."""

    keep: int = Field(5, ge=1, description="Number of versions to keep; older ones are pruned after a publication.")
    poll_interval: Duration = Field(
        timedelta(seconds=0.5), description="How often a process polls for a newly activated version."
    )


class Runs(_Group):
    """The history of training runs and searches."""

    keep: int = Field(
        1_000,
        ge=1,
        description="Number of runs to keep, with their epochs and trials; older ones are pruned after a publication.",
    )


class Imports(_Group):
    """Imports of files."""

    batch_size: int = Field(20_000, ge=1, description="Ratings per transaction.")
    max_bad_lines: int = Field(1_000, ge=0, description="Number of invalid lines after which an import stops.")
    reported_bad_lines: int = Field(20, ge=0, description="Number of invalid lines that the report quotes.")


class Limits(_Group):
    """Limits on requests."""

    max_body_bytes: int = Field(16 * 2**20, ge=2**10, description="Largest request body; imports have no limit.")
    body_timeout: Duration = Field(
        timedelta(seconds=30),
        description="Maximum time to receive a request body, plus a second for each KiB received.",
    )
    rate: str | None = Field(
        None, description="Rate limit per API key, or per address without a key, e.g. `100/second`; if unset, no limit."
    )
    rate_store: str = Field(
        "memory://",
        description="Where requests are counted: per process, or jointly for all at a redis:// URL (`palate[redis]`).",
    )

    @model_validator(mode="after")
    def _has_a_rate(self) -> Self:
        if self.rate is not None:
            import limits  # here, so that `palate --help` is quick

            try:
                limits.parse(self.rate)
            except ValueError:
                raise ValueError(f"limits rate {self.rate!r} must be like 100/second or 5000/hour") from None
        if not self.rate_store.startswith(("memory://", "redis://", "rediss://")):
            raise ValueError("limits rate_store must be memory:// or a redis:// URL")
        if self.rate_store.startswith("redis") and find_spec("redis") is None:
            raise ValueError("limits rate_store: for Redis, pip install palate[redis]")
        return self


class _NamedFiles(EnvSettingsSource):
    """Settings from files, for secrets: PALATE_X_FILE names a file that holds PALATE_X, if X is in no group."""

    def _load_env_vars(self) -> Mapping[str, str | None]:
        variables = {name.lower(): value for name, value in os.environ.items()}
        return {
            name.removesuffix("_file"): _read_setting(name, path)
            for name, path in variables.items()
            if name.startswith(str(self.env_prefix).lower()) and name.endswith("_file") and path
        }


def _read_setting(variable: str, path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError as error:
        raise SettingsError(f"{variable.upper()} cannot be read") from error


class Settings(BaseSettings):
    """`PALATE_DATA_DIR=/var/lib/palate` sets `data_dir`; `PALATE_RATING_MIN=1` sets `rating.min`."""

    model_config = SettingsConfigDict(
        env_prefix="PALATE_",
        env_nested_delimiter="_",
        env_nested_max_split=1,
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,  # the database's URL holds a password
    )

    data_dir: Path = Field(
        Path("palate-data"), description="Folder of the SQLite file, the model versions and the caches."
    )
    database_url: str | None = Field(
        None,
        description="SQLAlchemy URL, e.g. postgresql://user:password@host/name; if unset, SQLite in data_dir.",
    )
    database_statement_timeout: Duration = Field(
        timedelta(seconds=30),
        description="Statement timeout of requests on PostgreSQL; a request that exceeds it is answered with 503.",
    )
    database_password: str | None = Field(
        None, repr=False, description="Password for the user of the URL, if the URL does not contain it."
    )
    kernel_cache_dir: Path | None = Field(
        None, description="Folder that caches compiled kernels between starts; if unset, `kernels` in data_dir."
    )
    sqlite_synchronous: Literal["full", "normal"] = Field(
        "full",
        description="`full`: acknowledged ratings survive a power failure; `normal`: only a crash, but it is faster.",
    )
    trainer: Literal["embedded", "external"] = Field(
        "embedded",
        description="`embedded`: the service starts a trainer process; `external`: run `palate worker`.",
    )
    auth: Literal["keys", "off"] = Field(
        "keys",
        description="`keys`: requests need an API key; until the first is created, only local requests are answered. "
        "`off`: all requests are answered (docs/security.md).",
    )
    user_cache_size: int = Field(
        1_000,
        ge=0,
        description="Number of users whose vectors and lists each process caches; 0: no cache.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Minimum level of logged messages."
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="Log lines as plain text, or as one JSON object each."
    )
    log_requests: bool = Field(False, description="Log every request, as `palate serve --access-log` does.")
    rating: RatingScale = Field(RatingScale(), description="The rating scale.")
    retrain: RetrainPolicy = Field(RetrainPolicy(), description="When the trainer starts a run by itself.")
    training: Training = Field(Training(), description="The trainer process.")
    versions: Versions = Field(Versions(), description="Published model versions.")
    runs: Runs = Field(Runs(), description="History of runs.")
    imports: Imports = Field(Imports(), description="Imports of files.")
    limits: Limits = Field(Limits(), description="Limits on requests.")
    hyperparameters: dict[str, Any] = Field(
        {}, description='Default hyperparameters of runs as JSON, e.g. {"n_factors": 32}.'
    )

    @classmethod
    def settings_customise_sources(  # type: ignore[override]  # the sources always come by name
        cls, settings_cls: type[BaseSettings], **sources: PydanticBaseSettingsSource
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then environment variables, then files: PALATE_DATABASE_PASSWORD_FILE=/run/secrets/x."""
        return sources["init_settings"], sources["env_settings"], _NamedFiles(settings_cls)

    @field_validator("database_url")
    @classmethod
    def _is_a_known_database(cls, url: str | None) -> str | None:
        """An empty variable counts as unset."""
        from sqlalchemy import make_url  # here, so that `palate --help` is quick
        from sqlalchemy.exc import ArgumentError

        try:
            kind = make_url(url).drivername if url else "sqlite"
        except (ArgumentError, ValueError):
            raise ValueError("is not a database URL such as postgresql://user:password@host/name") from None
        if kind not in _DATABASES:
            raise ValueError(f"must begin with postgresql:// or sqlite:///, not {kind}://")
        return url

    @field_validator("hyperparameters")
    @classmethod
    def _are_hyperparameters(cls, values: dict[str, Any]) -> dict[str, Any]:
        Hyperparameters.from_dict(values)
        return values

    @model_validator(mode="after")
    def _has_a_loss(self) -> Self:
        """Declare the loss now, so that an invalid one aborts start-up."""
        assert self.loss
        return self

    @cached_property
    def loss(self) -> Loss:
        """The default loss of runs."""
        defaults = self.training
        return declare(
            defaults.loss,
            penalty=defaults.penalty,
            link=defaults.link,
            parameters=defaults.loss_parameters,
            rating_range=(self.rating.min, self.rating.max),
        )

    @property
    def recipe(self) -> Recipe:
        """The default hyperparameters and loss of runs."""
        return Recipe(Hyperparameters.from_dict(self.hyperparameters), self.loss, (self.rating.min, self.rating.max))

    @cached_property
    def sqlalchemy_url(self) -> str:
        """The URL of the database in use, with its password."""
        from sqlalchemy import make_url  # here, so that `palate --help` is quick

        if not self.database_url:
            return f"sqlite:///{(self.data_dir / DATABASE_FILE).absolute()}"
        if not self.database_password:
            return self.database_url
        return make_url(self.database_url).set(password=self.database_password).render_as_string(hide_password=False)

    @property
    def sqlite_file(self) -> Path | None:
        """The file of an SQLite database, which may not exist yet; None if the database is another one."""
        from sqlalchemy import make_url  # here, so that `palate --help` is quick

        url = make_url(self.sqlalchemy_url)
        return Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None

    @property
    def versions_dir(self) -> Path:
        return self.data_dir / "versions"

    @property
    def snapshot_dir(self) -> Path:
        return self.data_dir / "snapshot"

    @property
    def kernels_dir(self) -> Path:
        return self.kernel_cache_dir or self.data_dir / "kernels"


class UnusableSettings(Exception):
    """Environment variables are invalid; the message has a line for each."""


def read_settings() -> Settings:
    """The settings of the environment; raises UnusableSettings with a message for the operator."""
    try:
        return Settings()
    except ValidationError as invalid:
        lines = (f"PALATE_{'_'.join(map(str, each['loc'])).upper()}: {each['msg']}" for each in invalid.errors())
        raise UnusableSettings("\n".join(line.replace(": Value error, ", ": ") for line in lines)) from invalid
    except SettingsError as unreadable:  # invalid JSON
        raise UnusableSettings(f"{unreadable}: {unreadable.__cause__}") from unreadable
