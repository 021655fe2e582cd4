"""YAML of the pages: told apart by its top keys, and judged by those who would read it."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import time
from pathlib import Path
from typing import Any, Final

import jsonschema
import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from proxy.config import Config, load
from proxy.config_problems import ConfigError
from tests.docs.blocks import ROOT, Block
from tests.docs.surroundings import TOOLS
from tests.fake_bybit.tls import make_certificates
from tests.gateway_fixture import ROUTES

SECTIONS: Final = frozenset(Config.model_fields)
_IN_A_CONTAINER: Final = frozenset(
    {"args", "command", "env", "envFrom", "image", "lifecycle", "livenessProbe", "ports", "readinessProbe", "resources"}
    | {"securityContext", "startupProbe", "volumeMounts", "workingDir"}
)
_IN_A_POD: Final = frozenset(
    {"affinity", "containers", "initContainers", "nodeSelector", "securityContext", "serviceAccountName", "tolerations"}
    | {"terminationGracePeriodSeconds", "topologySpreadConstraints", "volumes"}
)
_PROMETHEUS: Final = frozenset({"global", "scrape_configs", "rule_files", "alerting", "remote_write"})
_ALERTMANAGER: Final = frozenset({"route", "receivers", "inhibit_rules", "templates"})
_KEY_FILE: Final = re.compile(r"(?m)(?P<field>public_key_file|ca_file): *(?P<path>/[\w./-]+\.pem)")
_CHART: Final = ROOT / "deploy" / "helm" / "bybit-gateway"
_SECRET: Final = "a-secret-of-the-tests-of-32-bytes"
_KUBERNETES: Final = "1.33"


async def judge(block: Block, where: Path) -> None:
    """Raises AssertionError with what is wrong."""
    documents = [yaml.safe_load(each.text) for each in block.chain]
    if block.directive.helm:
        _judge_values(documents)
        return
    data = list(yaml.safe_load_all(block.text))
    keys = {key for document in data if isinstance(document, dict) for key in document}
    if any(isinstance(document, dict) and {"apiVersion", "kind"} <= document.keys() for document in data):
        await _judge_objects(block.text, where)
    elif "services" in keys:
        await _judge_compose(block.text, where)
    elif keys == {"groups"}:
        await by_program(["promtool", "check", "rules", "FILE"], block.text, where)
    elif keys & _PROMETHEUS and not keys & SECTIONS:
        await by_program(["promtool", "check", "config", "--syntax-only", "FILE"], block.text, where)
    elif keys & _ALERTMANAGER and not keys & SECTIONS:
        await by_program(["amtool", "check-config", "FILE"], block.text, where)
    elif keys <= _IN_A_CONTAINER and keys:
        await _judge_objects(_pod(containers=[{"name": "one", "image": "one", **data[0]}]), where)
    elif keys <= _IN_A_POD and keys:
        await _judge_objects(_pod(**data[0]), where)
    else:
        _judge_configuration(block, documents, where)


def _judge_configuration(block: Block, documents: list[Any], where: Path) -> None:
    """By the gateway's own loader; alone, as it stands, or merged over what it follows."""
    text = block.text
    if len(documents) > 1:
        text = yaml.safe_dump(merged(*documents), sort_keys=False)
    path = where / "config.yaml"
    path.write_text(_KEY_FILE.sub(lambda match: f"{match['field']}: {_file(match['field'], where)}", text))
    try:
        load(path, {}, ROUTES)
    except ConfigError as error:
        problems = "\n".join(map(str, error.problems))
        assert block.directive.fails, f"the gateway refuses this:\n{problems}"
    else:
        assert not block.directive.fails, "the gateway takes this, and the page says that it does not"


def judge_environment(block: Block, where: Path) -> None:
    """Variables, one on a line: NAME=value, a comment, or nothing. Files that they name are put there."""
    given: dict[str, str] = {}
    for line in block.text.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            name, equals, value = line.strip().removeprefix("export ").partition("=")
            assert equals, f"not NAME=value: {line}"
            plain = re.sub(r"\s+#.*", "", value).strip().strip("'\"")
            given[name] = str(_named_by(name, where)) if name.endswith("_FILE") else plain
    try:
        load(None, given, ROUTES)
    except ConfigError as error:
        raise AssertionError("the gateway refuses this:\n" + "\n".join(map(str, error.problems))) from None


def _named_by(variable: str, where: Path) -> Path:
    """A certificate, a key, or the file of a secret."""
    field = variable.rpartition("__")[2].lower()
    if field in {"ca_file", "public_key_file"}:
        return _file(field, where)
    path = where / variable
    urls = {"ARCHIVE": "postgresql://gateway@db/candles", "URL": "redis://redis:6379/0"}
    path.write_text(next((text for word, text in urls.items() if word in variable and "URL" in variable), _SECRET))
    return path


def merged(*documents: Any) -> Any:
    """Later ones over earlier ones: mappings field by field, all else as a whole."""
    result: Any = None
    for document in documents:
        result = _over(result, document)
    return result


def _over(below: Any, above: Any) -> Any:
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    return {**below, **{key: _over(below.get(key), value) for key, value in above.items()}}


def _file(field: str, where: Path) -> Path:
    """A file such as the field wants."""
    if field == "ca_file":
        return make_certificates(where, time.time_ns() // 1000).ca_path
    path = where / "key.pem"
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
    path.write_bytes(key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    return path


def _judge_values(documents: list[Any]) -> None:
    """Values of the chart, over its own."""
    defaults = yaml.safe_load((_CHART / "values.yaml").read_text())
    schema = json.loads((_CHART / "values.schema.json").read_text())
    try:
        jsonschema.validate(merged(defaults, *documents), schema)
    except jsonschema.ValidationError as error:
        raise AssertionError(f"the chart refuses this: {error.json_path}: {error.message}") from None


def _pod(**spec: Any) -> str:
    if "containers" not in spec:
        spec["containers"] = [{"name": "one", "image": "one"}]
    return yaml.safe_dump({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, "spec": spec})


async def _judge_objects(text: str, where: Path) -> None:
    """Kinds that are not Kubernetes' own are unknown to the tool, which then warns; of those nothing is concluded."""
    said = await by_program(["kubernetes-validate", "-k", _KUBERNETES, "--strict", "FILE"], text, where)
    foreign = {"ServiceMonitor", "PodMonitor", "PrometheusRule", "Kustomization"}
    kinds = {document.get("kind") for document in yaml.safe_load_all(text) if isinstance(document, dict)}
    assert "WARN" not in said or kinds & foreign, said


async def _judge_compose(text: str, where: Path) -> None:
    if shutil.which("docker") is not None and await _works("docker", "compose", "version"):
        await by_program(["docker", "compose", "-f", "FILE", "config", "-q"], text, where)
    else:
        await by_program(["check-jsonschema", "--builtin-schema", "vendor.compose-spec", "FILE"], text, where)


async def by_program(words: list[str], text: str, where: Path) -> str:
    """`FILE` stands for a file of this text. Skips the test where the program is not here."""
    program = _found(words[0])
    path = where / "block.yaml"
    path.write_text(text)
    code, said = await _run(str(program), *(str(path) if word == "FILE" else word for word in words[1:]))
    assert code == 0, f"{' '.join(words)}:\n{said}"
    return said


def _found(name: str) -> Path:
    """On the path, or among the tools for deployment (`make .venv/.deploy`)."""
    own = TOOLS / name
    on_path = shutil.which(name)
    if not own.exists() and on_path is None:
        pytest.skip(f"{name} is not installed here")
    return own if own.exists() else Path(on_path or "")


async def _works(*words: str) -> bool:
    return (await _run(*words))[0] == 0


async def _run(*words: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *words,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(60):
        said, _ = await process.communicate()
    return process.returncode or 0, said.decode(errors="replace")
