"""compose.yaml without Docker: it is what Compose would read, and its commands, variables and secrets are real ones."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from headrace.app.settings import load_settings
from headrace.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
SECRETS = ("redis_password", "postgres_password", "aws_access_key_id", "aws_secret_access_key")
LAYERS = ("compute", "ingest", "schedule", "serve")
FOUND: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, Any] = FOUND["services"]
OWN = {name: service for name, service in SERVICES.items() if service["image"] == "headrace"}


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    folder = tmp_path / "secrets"
    folder.mkdir()
    for name in SECRETS:
        (folder / name).write_text(f"{name}-of-the-test\n")
    return folder


def test_every_layer_is_a_service_and_every_command_exists() -> None:
    assert set(OWN) == {*LAYERS, "apply"}
    assert isinstance(main, click.Group)
    for service in OWN.values():
        program, name, *rest = service["command"]
        assert program == "headrace"
        command = main.get_command(click.Context(main), name)
        assert command is not None, name
        command.make_context(name, list(rest))
    assert [OWN[layer]["command"][1:3] for layer in LAYERS] == [["run", layer] for layer in LAYERS]


def test_what_is_waited_for_can_come_and_images_have_tags() -> None:
    assert set(FOUND["secrets"]) == set(SECRETS)
    for name, service in SERVICES.items():
        for other, how in service.get("depends_on", {}).items():
            condition = how["condition"]
            ends = SERVICES[other]["restart"] == "on-failure"
            assert condition == ("service_completed_successfully" if ends else "service_healthy"), (name, other)
        assert set(service.get("secrets", ())) <= set(SECRETS), name
        assert service["restart"] == "on-failure" or "healthcheck" in service, name
        if name not in OWN:
            assert re.fullmatch(r"[\w./-]+:[\w.-]*\d[\w.-]*", service["image"]), name
        for volume in service.get("volumes", ()):
            assert volume.split(":")[0] in FOUND["volumes"] or volume.startswith("${PROJECT"), volume


def test_the_variables_are_settings_and_secrets_come_from_files_alone(secrets: Path, tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    given = {name: str(value).replace("$$", "$") for name, value in OWN["serve"]["environment"].items()}
    environ = {"PATH": os.environ["PATH"], "SECRETS_DIR": str(secrets), **given}
    done = subprocess.run(
        [ROOT / "deploy" / "entrypoint.sh", "env", "-0"], env=environ, capture_output=True, text=True, check=True
    )
    inside = dict(line.split("=", 1) for line in done.stdout.split("\0") if line)
    settings = load_settings(tmp_path / "project", environ=inside)
    assert settings.online == "redis://:redis_password-of-the-test@redis:6379/0"
    assert settings.catalog == "postgresql://headrace:postgres_password-of-the-test@postgres:5432/headrace"
    assert (settings.log, settings.offline, settings.partitions) == ("kafka://kafka:9092/headrace", "s3://headrace", 8)
    assert inside["AWS_SECRET_ACCESS_KEY"] == "aws_secret_access_key-of-the-test"
    assert {name for name in given if name.startswith("HEADRACE_")} == {
        "HEADRACE_LOG",
        "HEADRACE_ONLINE",
        "HEADRACE_OFFLINE",
        "HEADRACE_CATALOG",
        "HEADRACE_PARTITIONS",
    }


def test_the_entrypoint_ends_as_its_command_does(secrets: Path) -> None:
    environ = {"PATH": os.environ["PATH"], "SECRETS_DIR": str(secrets / "none")}
    done = subprocess.run([ROOT / "deploy" / "entrypoint.sh", "sh", "-c", "exit 7"], env=environ, check=False)
    assert done.returncode == 7


@pytest.mark.parametrize("layer", LAYERS[:3])
def test_a_layer_is_healthy_while_it_reports(layer: str, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    report = tmp_path / "run" / f"{layer}.json"
    check = OWN[layer]["healthcheck"]["test"][1].replace("/state", str(tmp_path))

    def healthy() -> bool:
        return subprocess.run(["sh", "-c", check], capture_output=True, check=False).returncode == 0

    assert not healthy()
    report.write_text("{}")
    assert healthy()
    os.utime(report, (time.time() - 60,) * 2)
    assert not healthy()


def test_the_image_gets_what_the_lock_file_says() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert "uv sync --frozen --no-dev" in text
    sources = [s for line in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE) for s in line.split()]
    assert all((ROOT / source).exists() for source in sources)
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.findall(r"--extra (\w+)", text)) == {"kafka", "kinesis", "postgres", "redis"} <= set(declared)


def has_compose() -> bool:
    docker = shutil.which("docker")
    return docker is not None and subprocess.run([docker, "compose", "version"], capture_output=True).returncode == 0


@pytest.mark.skipif(not has_compose(), reason="Docker's Compose is not here")
def test_compose_reads_it() -> None:
    done = subprocess.run(["docker", "compose", "config", "--quiet"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
