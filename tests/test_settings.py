from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError
from sqlalchemy import make_url

from app.settings import RatingScale, Settings, UnusableSettings, read_settings


def test_variables_reach_the_settings_they_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALATE_DATA_DIR", "/somewhere")
    monkeypatch.setenv("PALATE_RATING_MAX", "10")
    monkeypatch.setenv("PALATE_RETRAIN_MAX_INTERVAL", "90")
    monkeypatch.setenv("PALATE_HYPERPARAMETERS", '{"n_factors": 8}')
    settings = Settings()
    assert settings.data_dir == Path("/somewhere")
    assert settings.rating.max == 10
    assert settings.retrain.max_interval == timedelta(seconds=90)
    assert settings.hyperparameters == {"n_factors": 8}
    assert settings.sqlalchemy_url == "sqlite:////somewhere/palate.db"


@pytest.mark.parametrize(
    ("variable", "value", "complaint"),
    [
        ("PALATE_RATING_MIN", "9", "must be below"),
        ("PALATE_RATING_STEP", "0.7", "multiple of step"),
        ("PALATE_RATING_MAKS", "5", "Extra inputs"),
        ("PALATE_HYPERPARAMETERS", '{"n_factors": 0}', "n_factors must be"),
        ("PALATE_TRAINER", "maybe", "'embedded' or 'external'"),
        ("PALATE_AUTH", "loopback", "'keys' or 'off'"),
        ("PALATE_LIMITS_RATE", "fast", "must be like 100/second"),
        ("PALATE_LIMITS_RATE_STORE", "https://localhost", "must be memory:// or a redis:// URL"),
        ("PALATE_DATABASE_URL", "nonsense", "is not a database URL"),
        ("PALATE_DATABASE_URL", "mysql://somebody@localhost/name", "must begin with postgresql:// or sqlite:///"),
        ("PALATE_DATABASE_URL", "postgres://somebody@localhost/name", "must begin with postgresql:// or sqlite:///"),
        ("PALATE_DATABASE_URL", "postgresql+psycopg2://localhost/name", "must begin with postgresql:// or sqlite:///"),
        ("PALATE_DATABASE_URL", "postgresql://localhost:port/name", "is not a database URL"),
    ],
)
def test_invalid_settings_abort_start_up(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, complaint: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValidationError, match=complaint):
        Settings()


def test_a_refused_database_url_does_not_reveal_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALATE_DATABASE_URL", "mysql://somebody:secret@localhost/name")
    with pytest.raises(ValidationError) as refused:
        Settings()
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("url", ["", "sqlite:////somewhere/else.db", "postgresql+psycopg://somebody@localhost/name"])
def test_urls_of_supported_databases_are_accepted(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("PALATE_DATABASE_URL", url)
    assert Settings().database_url == url


def test_settings_cannot_be_changed_after_start_up() -> None:
    with pytest.raises(ValidationError):
        Settings().trainer = "external"


@pytest.mark.parametrize("value", [0.4, 5.5, float("nan"), float("inf"), 3.25])
def test_a_rating_off_the_scale_or_between_the_steps_is_refused(value: float) -> None:
    assert RatingScale(min=0.5, max=5, step=0.5).complaint(value)


@pytest.mark.parametrize("value", [0.5, 3.0, 5.0])
def test_a_rating_on_the_scale_is_accepted(value: float) -> None:
    assert RatingScale(min=0.5, max=5, step=0.5).complaint(value) is None


def test_decimal_steps_tolerate_binary_rounding() -> None:
    assert RatingScale(min=0, max=1, step=0.1).complaint(0.1 + 0.2) is None


def test_the_default_loss_is_declared_by_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALATE_TRAINING_LOSS", "huber")
    monkeypatch.setenv("PALATE_TRAINING_LOSS_PARAMETERS", '{"delta": 1.5}')
    monkeypatch.setenv("PALATE_TRAINING_PENALTY", "none")
    loss = Settings().loss
    assert (loss.name, loss.parameters, loss.penalty) == ("huber", (("delta", 1.5),), "0")


def test_an_invalid_default_loss_aborts_start_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALATE_TRAINING_LOSS", "(r - r_hat)**2 + sin(r)")
    with pytest.raises(UnusableSettings, match="the function sin is not known at character 18"):
        read_settings()


def test_a_setting_can_come_from_a_file_and_a_password_goes_into_the_url(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text("p@ss/word%\n")
    monkeypatch.setenv("PALATE_DATABASE_URL", "postgresql://palate@db/palate")
    monkeypatch.setenv("PALATE_DATABASE_PASSWORD_FILE", str(tmp_path / "password"))
    settings = Settings()
    assert make_url(settings.sqlalchemy_url).password == "p@ss/word%"
    assert "p@ss" not in repr(settings)


def test_a_variable_takes_precedence_over_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "level").write_text("debug")
    monkeypatch.setenv("PALATE_LOG_LEVEL_FILE", str(tmp_path / "level"))
    assert Settings().log_level == "debug"
    monkeypatch.setenv("PALATE_LOG_LEVEL", "warning")
    assert Settings().log_level == "warning"


def test_an_unreadable_file_aborts_start_up_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALATE_DATABASE_PASSWORD_FILE", "/nowhere/password")
    with pytest.raises(UnusableSettings, match=r"PALATE_DATABASE_PASSWORD_FILE cannot be read: .*/nowhere/password"):
        read_settings()
