"""Everything an operator can set, read once from the environment (prefix `PALATE_`) and frozen."""

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

_DATABASES = {"sqlite", "sqlite+pysqlite", "postgresql", "postgresql+psycopg"}  # with the one driver of each


def _seconds(given: object) -> object:
    """A bare number from the environment means seconds."""
    try:
        return timedelta(seconds=float(given)) if isinstance(given, str) else given
    except ValueError:
        return given  # an ISO 8601 duration, or something that pydantic refuses with a better message


Duration = Annotated[timedelta, BeforeValidator(_seconds), Field(gt=timedelta(0))]

DATABASE_FILE = "palate.db"
"""SQLite's, in the folder of the data."""


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RatingScale(_Group):
    """The scale that every stored rating lies on and every predicted rating is clipped to."""

    min: float = Field(0.5, allow_inf_nan=False, description="Lowest rating that is accepted.")
    max: float = Field(5.0, allow_inf_nan=False, description="Highest rating that is accepted.")
    step: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Distance of two ratings; unset accepts any value between.",
    )

    @model_validator(mode="after")
    def _is_a_scale(self) -> Self:
        if self.min >= self.max:
            raise ValueError(f"rating min {self.min} must be below rating max {self.max}")
        if self.step is not None and not self._is_on_a_step(self.max):
            raise ValueError(f"rating max {self.max} is not min {self.min} plus a multiple of step {self.step}")
        return self

    def complaint(self, value: float) -> str | None:
        """Why `value` is not a rating on this scale, or None when it is."""
        if not self.min <= value <= self.max:  # NaN fails every comparison, so it lands here too
            return f"must be a number from {self.min:g} to {self.max:g}"
        if self.step is not None and not self._is_on_a_step(value):
            return f"must be {self.min:g} plus a multiple of {self.step:g}"
        return None

    def _is_on_a_step(self, value: float) -> bool:
        assert self.step is not None
        steps = (value - self.min) / self.step
        return abs(steps - round(steps)) < 1e-6


class RetrainPolicy(_Group):
    """When the trainer starts a run by itself: a lower and an upper bound, so that bursts are trained once."""

    is_on: bool = Field(True, description="Whether the trainer starts runs by itself at all.")
    min_changes: int = Field(100, ge=1, description="Changed ratings that make a retrain worth while.")
    min_interval: Duration = Field(
        timedelta(seconds=30), description="Shortest time between the starts of two such runs."
    )
    max_interval: Duration = Field(
        timedelta(hours=1), description="Longest time that any changed rating waits for a retrain."
    )


class Training(_Group):
    """How the trainer process works."""

    n_threads: int | None = Field(None, ge=1, description="Threads of the fit; unset uses every processor.")
    lease: Duration = Field(
        timedelta(seconds=10),
        description="Lease of a run: a trainer that sends no heartbeat for this long loses the run to another one.",
    )
    poll_interval: Duration = Field(timedelta(seconds=0.25), description="How often an idle trainer looks for a run.")
    heartbeat_file: Path | None = Field(
        None, description="Heartbeat file: the trainer touches it every second, for health checks of containers."
    )
    gate_margin: float = Field(
        0.02,
        ge=0,
        description="Share by which a new version's hold-out error may exceed the active version's.",
    )
    warm_from: int = Field(
        1_000_000,
        ge=1,
        description="Ratings from which a run goes on from the active version; fewer are learned anew in a second.",
    )
    warm_epochs: int = Field(1, ge=1, le=1000, description="Passes of such a warm fit over its ratings.")
    warm_share: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Share of the unchanged ratings that a warm fit learns; changed ones it learns all.",
    )
    warm_drift: float = Field(
        0.005,
        ge=0,
        description="Share by which warm versions may have become worse, all together, before a run begins anew.",
    )
    posterior_limit: Duration = Field(
        timedelta(minutes=10),
        description="Projected time up to which posterior averaging is done where a run's `posterior` is `auto`.",
    )
    cold_every: int = Field(10, ge=1, description="Every n-th version is learned anew at the latest; 1: all of them.")
    loss: str = Field("squared", description="What runs minimise by default: a name or an expression (docs/losses.md).")
    penalty: str = Field("l2", description="Penalty on the parameters by default: a name or an expression.")
    link: Literal["identity", "sigmoid", "exp"] | None = Field(
        None, description="From score to predicted rating by default; unset is the loss's own."
    )
    loss_parameters: dict[str, float] = Field(
        {}, description='Numbers that the default loss calls by name, as JSON, e.g. {"delta": 1.5}.'
    )


class Versions(_Group):
    """Published model versions on disk."""

    keep: int = Field(5, ge=1, description="Versions kept; older ones are pruned after a publish.")
    poll_interval: Duration = Field(
        timedelta(seconds=0.5), description="How often a process looks for a newly active version."
    )


class Runs(_Group):
    """The history of training runs and searches."""

    keep: int = Field(
        1_000, ge=1, description="Runs kept, with epochs and trials; older ones are pruned after a publish."
    )


class Imports(_Group):
    """Streaming import of ratings."""

    batch_size: int = Field(20_000, ge=1, description="Ratings per committed batch.")
    max_bad_lines: int = Field(1_000, ge=0, description="Bad lines after which an import stops.")
    shown_bad_lines: int = Field(20, ge=0, description="Bad lines that the report quotes.")


class Limits(_Group):
    """What a single client may ask of a process."""

    body_bytes: int = Field(16 * 2**20, ge=2**10, description="Longest request body; imports may have any length.")
    body_timeout: Duration = Field(
        timedelta(seconds=30),
        description="How long a body may keep the service waiting, and a second more for each KiB that has come.",
    )
    rate: str | None = Field(
        None, description="Requests of one key, or of one address without one, e.g. `100/second`; unset: no limit."
    )
    rate_store: str = Field(
        "memory://",
        description="Where they are counted: each process for itself, or a redis:// URL (`palate[redis]`) for all.",
    )

    @model_validator(mode="after")
    def _has_a_rate(self) -> Self:
        if self.rate is not None:
            import limits  # only where there is one: `palate --help` answers at once

            try:
                limits.parse(self.rate)
            except ValueError:
                raise ValueError(f"limits rate {self.rate!r} must be like 100/second or 5000/hour") from None
        if not self.rate_store.startswith(("memory://", "redis://", "rediss://")):
            raise ValueError("limits rate_store must be memory:// or a redis:// URL")
        if self.rate_store.startswith("redis") and find_spec("redis") is None:
            raise ValueError("limits rate_store: Redis needs a package more, pip install palate[redis]")
        return self


class _NamedFiles(EnvSettingsSource):
    """Settings from files, for secrets: PALATE_X_FILE names the file that holds PALATE_X, where X is in no group."""

    def _load_env_vars(self) -> Mapping[str, str | None]:
        named = {name.lower(): path for name, path in os.environ.items()}
        return {
            name.removesuffix("_file"): _read_setting(name, path)
            for name, path in named.items()
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
        description="SQLAlchemy URL, e.g. postgresql://user:password@host/name; unset uses SQLite in data_dir.",
    )
    database_statement_timeout: Duration = Field(
        timedelta(seconds=30),
        description="Longest that a statement of a request may take on a PostgreSQL server; then it answers 503.",
    )
    database_password: str | None = Field(
        None, repr=False, description="Password for the URL's user, where it shall not stand in the URL itself."
    )
    kernel_cache_dir: Path | None = Field(
        None, description="Folder of compiled kernels, kept between starts; unset uses `kernels` in data_dir."
    )
    sqlite_synchronous: Literal["full", "normal"] = Field(
        "full",
        description="`full`: an acknowledged rating survives a power cut; `normal`: faster, survives a killed process",
    )
    trainer: Literal["embedded", "external"] = Field(
        "embedded",
        description="`embedded`: the service starts the trainer process itself; `external`: run `palate worker`.",
    )
    auth: Literal["keys", "off"] = Field(
        "keys",
        description="`keys`: requests need an API key; before the first is made, only this machine is answered. "
        "`off`: everybody who can connect is.",
    )
    user_cache_size: int = Field(
        1_000,
        ge=0,
        description="Users whose vectors and lists each process caches until they change; 0: none.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe level logged.")
    log_format: Literal["text", "json"] = Field("text", description="`json`: one object a line, for machines.")
    log_requests: bool = Field(False, description="Log every request; `palate serve --access-log` turns it on too.")
    rating: RatingScale = Field(RatingScale(), description="The rating scale.")
    retrain: RetrainPolicy = Field(RetrainPolicy(), description="When a retrain starts by itself.")
    training: Training = Field(Training(), description="The trainer process.")
    versions: Versions = Field(Versions(), description="Published model versions.")
    runs: Runs = Field(Runs(), description="History of runs.")
    imports: Imports = Field(Imports(), description="Streaming import.")
    limits: Limits = Field(Limits(), description="Limits on requests.")
    hyperparameters: dict[str, Any] = Field(
        {}, description='Defaults of every run as JSON, e.g. {"n_factors": 32}; a run may override them.'
    )

    @classmethod
    def settings_customise_sources(  # type: ignore[override]  # the sources always come by name
        cls, settings_cls: type[BaseSettings], **sources: PydanticBaseSettingsSource
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then variables, then files that variables name: PALATE_DATABASE_PASSWORD_FILE=/run/secrets/x."""
        return sources["init_settings"], sources["env_settings"], _NamedFiles(settings_cls)

    @field_validator("database_url")
    @classmethod
    def _is_understood(cls, given: str | None) -> str | None:
        """An empty variable is as good as none."""
        from sqlalchemy import make_url  # only where there is one: `palate --help` answers at once
        from sqlalchemy.exc import ArgumentError

        try:
            kind = make_url(given).drivername if given else "sqlite"
        except (ArgumentError, ValueError):
            raise ValueError("is not the URL of a database; postgresql://user:password@host/name is one") from None
        if kind not in _DATABASES:
            raise ValueError(f"must begin with postgresql:// or sqlite:///, not {kind}://")
        return given

    @field_validator("hyperparameters")
    @classmethod
    def _are_hyperparameters(cls, given: dict[str, Any]) -> dict[str, Any]:
        Hyperparameters.from_dict(given)
        return given

    @model_validator(mode="after")
    def _has_a_loss(self) -> Self:
        """Declared here, so that a loss that cannot be stops the start."""
        assert self.loss
        return self

    @cached_property
    def loss(self) -> Loss:
        """What runs minimise unless they are told otherwise."""
        chosen = self.training
        return declare(
            chosen.loss,
            penalty=chosen.penalty,
            link=chosen.link,
            parameters=chosen.loss_parameters,
            rating_range=(self.rating.min, self.rating.max),
        )

    @property
    def recipe(self) -> Recipe:
        """How runs fit, and what they minimise, unless they are told otherwise."""
        return Recipe(Hyperparameters.from_dict(self.hyperparameters), self.loss, (self.rating.min, self.rating.max))

    @cached_property
    def sqlalchemy_url(self) -> str:
        """The database that is really used."""
        from sqlalchemy import make_url  # only where there is one

        if not self.database_url:
            return f"sqlite:///{(self.data_dir / DATABASE_FILE).absolute()}"
        if not self.database_password:
            return self.database_url
        return make_url(self.database_url).set(password=self.database_password).render_as_string(hide_password=False)

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
    """The environment says something that makes no sense: a line for each variable."""


def read_settings() -> Settings:
    """The settings of the environment, or UnusableSettings in words for whoever starts the process."""
    try:
        return Settings()
    except ValidationError as invalid:
        told = (f"PALATE_{_variable(each['loc'])}: {each['msg']}" for each in invalid.errors())
        raise UnusableSettings("\n".join(line.replace(": Value error, ", ": ") for line in told)) from invalid
    except SettingsError as unreadable:  # JSON was expected
        raise UnusableSettings(f"{unreadable}: {unreadable.__cause__}") from unreadable


def _variable(location: tuple[int | str, ...]) -> str:
    return "_".join(map(str, location)).upper()
