"""What is in the image, file by file: its base, the gateway with its libraries, and nothing else."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tarfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Final

import pytest

from tests.image.engine import ROOT, Engine, base_image

pytestmark = pytest.mark.timeout(1200)  # whoever comes first builds the image, which may mean downloads

OURS: Final = ("app", "opt/gateway", "var/lib/bybit-gateway")
BUILD_TOOLS: Final = frozenset(
    [
        "pip",
        "pip3",
        "ar",
        "as",
        "c++",
        "cc",
        "clang",
        "cmake",
        "cpp",
        "g++",
        "gcc",
        "git",
        "ld",
        "make",
        "ninja",
        "patch",
        "pkg-config",
        "poetry",
        "rustc",
        "uv",
        "wheel",
    ]
)
PROGRAMS: Final = re.compile(r"(?:usr/(?:local/)?)?s?bin/([^/]+)|opt/gateway/bin/([^/]+)")
Files = Mapping[str, tarfile.TarInfo]


def files_of(engine: Engine, name: str) -> Files:
    """Every file of an image, by its path without the slash in front."""
    with engine.running(image=name, start=False) as container, TemporaryFile() as archive:
        subprocess.run(["docker", "export", container.id], stdout=archive, check=True, timeout=120)
        archive.seek(0)
        with tarfile.open(fileobj=archive) as tar:
            return {entry.name.removeprefix("./").rstrip("/"): entry for entry in tar}


@pytest.fixture(scope="module")
def files(engine: Engine, image: str) -> Files:
    return files_of(engine, image)


@pytest.fixture(scope="module")
def base(engine: Engine, image: str) -> Files:
    return files_of(engine, base_image())


@pytest.fixture(scope="module")
def config(engine: Engine, image: str) -> dict[str, Any]:
    """How the image wants to be run."""
    found = json.loads(engine.docker("image", "inspect", image).stdout)[0]["Config"]
    assert isinstance(found, dict)
    return found


def is_ours(path: str) -> bool:
    return any(path == place or path.startswith(f"{place}/") for place in OURS)


def test_it_adds_nothing_to_its_base_but_itself(files: Files, base: Files) -> None:
    """No history of a shell, no cache of a package manager, no file of the build: only bytecode of Python's library."""
    added = {path for path in files.keys() - base.keys() if not is_ours(path) and path not in {"opt", "app"}}

    assert [path for path in added if "/__pycache__" not in path] == []


def test_it_takes_nothing_from_its_base_but_what_installs_packages(files: Files, base: Files) -> None:
    gone = base.keys() - files.keys()

    assert gone
    assert [path for path in gone if not re.search(r"/(pip[^/]*|ensurepip)(/|$)", path)] == []


def test_it_has_nothing_to_build_or_install_with(files: Files) -> None:
    programs = {match[1] or match[2] for path in files if (match := PROGRAMS.fullmatch(path))}

    assert "python" in programs
    assert {name for name in programs if re.sub(r"-?[0-9.]+$", "", name) in BUILD_TOOLS} == set()
    assert [path for path in files if re.search(r"/(site-packages/(pip|setuptools|wheel)|ensurepip)(/|$)", path)] == []


def test_what_is_ours_belongs_to_root_and_nobody_else_can_write_it(files: Files) -> None:
    """But for the volume, which is its user's."""
    writable = [
        path
        for path, entry in files.items()
        if is_ours(path) and not entry.issym() and (entry.uid or entry.gid or entry.mode & 0o022)
    ]
    volume = files["var/lib/bybit-gateway"]

    assert writable == ["var/lib/bybit-gateway"]
    assert (volume.uid, volume.gid, volume.mode & 0o7777) == (10001, 0, 0o770)


def test_no_program_of_ours_lends_rights(files: Files, base: Files) -> None:
    def lending(some: Files) -> set[str]:
        return {path for path, entry in some.items() if entry.isreg() and entry.mode & 0o6000}

    assert lending(files) <= lending(base)


def test_no_tests_are_in_it(files: Files) -> None:
    found = [path for path in files if is_ours(path) and re.search(r"/(tests|testdata)(/|$)|/conftest\.py$", path)]

    assert found == []


def test_everything_is_compiled(files: Files) -> None:
    """On a root that cannot be written to, each start would compile anew what is not."""
    version = next(path for path in files if re.fullmatch(r"opt/gateway/lib/python3\.\d+", path)).rpartition("python")[
        2
    ]
    tag = f"cpython-{version.replace('.', '')}"
    sources = [path for path in files if is_ours(path) and path.endswith(".py")]
    missing = [
        path for path in sources if str(Path(path).parent / "__pycache__" / f"{Path(path).stem}.{tag}.pyc") not in files
    ]

    assert len(sources) > 500
    assert missing == []
    assert any(
        path.startswith("usr/local/lib/python") and path.endswith(f"/asyncio/__pycache__/runners.{tag}.pyc")
        for path in files
    )


def test_it_holds_the_libraries_of_the_lock(files: Files) -> None:
    """Each in the locked version; the archive's and tracing's too, Parquet's not."""
    found = dict(
        match.groups()
        for path in files
        if (match := re.fullmatch(r"opt/gateway/lib/python3\.\d+/site-packages/([^/]+)-([^/-]+)\.dist-info", path))
    )
    installed = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found.items()}
    locked = pins("requirements-image.lock")

    assert {name: version for name, version in installed.items() if locked.get(name) != version} == {}
    assert locked.keys() - installed.keys() <= {"async-timeout"}  # of Python 3.11.2 and older
    assert {"asyncpg", "opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http"} <= installed.keys()
    assert "pyarrow" not in installed


def test_the_licence_travels_with_it(files: Files) -> None:
    assert {"app/LICENSE", "app/NOTICE", "app/config.yaml"} <= files.keys()


def test_how_it_wants_to_be_run(config: dict[str, Any]) -> None:
    """Nothing of the configuration stands in its environment: it would win over a mounted file without a word."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    assert config["User"] == "10001:10001"
    assert config["StopSignal"] == "SIGTERM"
    assert config["Entrypoint"] == ["python", "-m", "proxy"]
    assert config["Cmd"] == ["run"]
    assert config["WorkingDir"] == "/app"
    assert config["Healthcheck"]["Test"] == ["CMD", "python", "-m", "proxy.alive"]
    assert list(config["ExposedPorts"]) == ["8080/tcp"]
    assert list(config["Volumes"]) == ["/var/lib/bybit-gateway"]
    assert [line for line in config["Env"] if line.startswith("GATEWAY__")] == []
    assert config["Labels"] == {
        "org.opencontainers.image.title": project["name"],
        "org.opencontainers.image.description": "A sidecar reverse-proxy gateway for Bybit",
        "org.opencontainers.image.version": project["version"],
        "org.opencontainers.image.licenses": project["license"],
    }


def test_the_image_has_the_versions_that_are_tested() -> None:
    """Whatever it installs is what `make test` runs with, and `make run` too."""
    image, tested, run = (pins(f"requirements{name}.lock") for name in ("-image", "-dev", ""))

    assert {name: version for name, version in image.items() if tested.get(name) != version} == {}
    assert {name: version for name, version in run.items() if image.get(name) != version} == {}


def test_hadolint_finds_nothing() -> None:
    installed = ROOT / ".venv" / "deploy" / "bin" / "hadolint"
    program = str(installed) if installed.exists() else shutil.which("hadolint")
    if program is None:
        pytest.skip("hadolint is not installed (make .venv/.deploy)")
    done = subprocess.run(
        [program, "--no-color", "Dockerfile"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )

    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def pins(file: str) -> dict[str, str]:
    return dict(re.findall(r"(?m)^([a-z0-9-]+)==(\S+)", (ROOT / file).read_text(encoding="utf-8")))
