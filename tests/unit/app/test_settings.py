"""Settings: addresses by scheme, options with variables, and nothing secret in what is shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.app.settings import load_settings
from headrace.core.errors import ConfigError

TOML = """
offline = "s3://bucket/prefix"

[s3]
region = "eu-central-1"
secret_access_key = "${KEY}"
allow_http = true

[env.prod]
catalog = "postgresql://u:${KEY}@db/x"

[env.prod.s3]
region = "eu-west-1"
max_retries = 3
"""


def test_options_are_merged_and_variables_filled_in(tmp_path: Path) -> None:
    (tmp_path / "headrace.toml").write_text(TOML)
    plain = load_settings(tmp_path, environ={"KEY": "k3y"})
    assert plain.s3 == {"region": "eu-central-1", "secret_access_key": "k3y", "allow_http": "true"}
    prod = load_settings(tmp_path, env="prod", environ={"KEY": "k3y"})
    assert prod.s3 == {**plain.s3, "region": "eu-west-1", "max_retries": "3"}
    assert (prod.offline, prod.catalog) == ("s3://bucket/prefix", "postgresql://u:k3y@db/x")
    assert "k3y" not in repr(prod) + repr(plain)
    with pytest.raises(ConfigError, match="KEY, which is not set"):
        load_settings(tmp_path, environ={})


@pytest.mark.parametrize("env", ["..", "../../etc", "a/b", "/tmp", "a b", "a@b", ".x", "a\nb"])
def test_an_environment_leads_out_of_no_folder(tmp_path: Path, env: str) -> None:
    with pytest.raises(ConfigError, match="has a folder of that name"):
        load_settings(tmp_path, env=env, environ={})
    with pytest.raises(ConfigError, match="has a folder of that name"):
        load_settings(tmp_path, environ={"HEADRACE_ENV": env})
    assert load_settings(tmp_path, env="prod-2.eu", environ={}).state == tmp_path / ".headrace" / "prod-2.eu"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"offline": "gs://bucket"}, 'offline takes "embedded" or "s3://..."'),
        ({"catalog": "mysql://u:k3y@h/x"}, 'catalog = "mysql://h/x".*"postgresql://..." or "postgres://..."'),
        ({"offline": "bucket/prefix"}, 'offline takes "embedded"'),
        ({"models": "mlflow://u:k3y@h"}, "an embedded models only"),
        ({"batch": "spark://u:k3y@h"}, "an embedded batch only"),
        ({"scheduler": "airflow"}, "an embedded scheduler only"),
    ],
)
def test_an_address_that_no_part_takes_is_refused_without_its_password(
    tmp_path: Path, given: dict[str, str], told: str
) -> None:
    with pytest.raises(ConfigError, match=told) as raised:
        load_settings(tmp_path, **given)
    assert "k3y" not in str(raised.value)


def test_an_environment_that_is_not_there_is_refused_where_there_are_others(tmp_path: Path) -> None:
    (tmp_path / "headrace.toml").write_text("[env.prod]\nport = 1\n")
    for environ, env in (({"HEADRACE_ENV": "prdo"}, None), ({}, "prdo")):
        with pytest.raises(ConfigError, match=r"no \[env.prdo\] in .*; it has prod"):
            load_settings(tmp_path, env=env, environ=environ)
    assert load_settings(tmp_path, env="prod", environ={}).port == 1
    assert load_settings(tmp_path, environ={}).env == "default"


@pytest.mark.parametrize(
    ("told", "cure"),
    [
        ('{ topic = "core.pay", fields = { amount = "amt" } }', r'hr.field\(alias="amt"\)'),
        ('{ topic = "core.pay", history = "s3://lake/pay/*.parquet" }', "headrace publish pay FILE"),
    ],
)
def test_what_a_streams_place_cannot_say_is_told_with_the_way_to_do_it(tmp_path: Path, told: str, cure: str) -> None:
    (tmp_path / "headrace.toml").write_text(f'log = "kafka://h:1"\nstreams.pay = {told}\n')
    with pytest.raises(ConfigError, match=cure):
        load_settings(tmp_path, environ={})
