"""Alertmanager with the configuration as it is shipped: who is told of what, and what explains what."""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.observability.programs import ALERTMANAGER, alertmanager, needs_prometheus
from tests.observability.rulebooks import alerts

HERE, ELSEWHERE = "gw-1:8080", "gw-2:8080"
GROUPS = {alert.name: alert.group for alert in alerts()}
SEVERITIES = {alert.name: alert.labels["severity"] for alert in alerts()}
CAUSES = {"Banned", "GatewayDown", "OverloadCritical", "ResponseTimeCritical"}


@needs_prometheus
@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        (("severity=critical", "group=exchange", "alertname=Banned"), "pager"),
        (("severity=critical", "group=process"), "pager"),
        (("severity=warning", "group=memory"), "chat"),
        (("severity=info", "group=memory"), "nobody"),
        (("alertname=SomethingElse",), "chat"),
        (("severity=critical", "alertname=GatewayAbsent", "job=bybit-gateway"), "pager"),
    ],
)
def test_alerts_reach_who_should_act(labels: tuple[str, ...], receiver: str) -> None:
    for command in (
        ["amtool", "check-config", str(ALERTMANAGER)],
        [
            "amtool",
            "config",
            "routes",
            "test",
            f"--config.file={ALERTMANAGER}",
            f"--verify.receivers={receiver}",
            *labels,
        ],
    ):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_inhibitions_name_alerts_groups_and_labels_that_exist() -> None:
    """A name that is misspelt would inhibit nothing, in silence."""
    rules = yaml.safe_load(ALERTMANAGER.read_text())["inhibit_rules"]
    for rule in rules:
        for matcher in (*rule["source_matchers"], *rule["target_matchers"]):
            label, value = re.split(r"\s*(?:=~|!=|=)\s*", matcher)
            known = {"alertname": set(GROUPS), "group": set(GROUPS.values())}[label]
            assert set(value.strip('"').split("|")) <= known, matcher

    assert len(rules) == 4


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    text = ALERTMANAGER.read_text().replace("127.0.0.1:9095", "127.0.0.1:1")  # nobody is there to be told
    with alertmanager(yaml.safe_load(text)) as running:
        yield running


@needs_prometheus
@pytest.mark.parametrize(
    ("cause", "explained", "told"),
    [
        (
            "Banned",
            ["ErrorRateHigh", "ResponseTimeCritical", "ExchangeDown", "BreakerOpen", "StreamDown", "CacheHitRateLow"],
            ["WriteFateUnknown", "MemoryHigh", "StoreDegraded", "ReloadFailed", "Banned"],
        ),
        ("GatewayDown", ["Banned", "ErrorRateHigh", "StoreDegraded", "MemoryHigh"], ["GatewayDown"]),
        ("OverloadCritical", ["WorkIsShed"], ["EventLoopLagging", "OverloadCritical"]),
        ("ResponseTimeCritical", ["ResponseTimeHigh"], ["ErrorRateHigh", "QueueWaitHigh"]),
    ],
)
def test_a_cause_silences_what_it_explains_of_the_same_gateway_and_nothing_else(
    url: str, cause: str, explained: list[str], told: list[str]
) -> None:
    # Each case has gateways of its own: alerts stay in Alertmanager for minutes.
    here, elsewhere = f"{cause}-{HERE}", f"{cause}-{ELSEWHERE}"
    names = {cause, *explained, *told}
    fire(url, [(name, here) for name in names] + [(name, elsewhere) for name in names - CAUSES])
    expected = {(name, here) for name in explained}
    # It hears of alerts one by one, in a process of its own.
    ends = time.monotonic() + 15
    while (found := inhibited(url, cause, here, elsewhere)) != expected and time.monotonic() < ends:
        time.sleep(0.05)  # noqa: TID251  # another process sets no Event

    assert found == expected


@needs_prometheus
def test_a_ban_of_many_gateways_is_one_page_and_anything_else_one_for_each(url: str) -> None:
    replicas = {f"gw-{number}:8080" for number in range(4)}
    names = ("Banned", "StoreDegraded", "AddressForbidden")
    fire(url, [(name, instance) for name in names for instance in replicas], job="replicas")
    ends = time.monotonic() + 15
    while any(set().union(*pages(url, name)) != replicas for name in names):
        assert time.monotonic() < ends, [pages(url, name) for name in names]
        time.sleep(0.05)  # noqa: TID251  # as above

    assert pages(url, "Banned") == [replicas]
    for name in names[1:]:
        assert sorted(map(sorted, pages(url, name))) == [[instance] for instance in sorted(replicas)]


def test_routes_name_alerts_that_exist() -> None:
    """And severities that rules have: whoever is misspelt goes to somebody else."""
    severities = {alert.labels["severity"] for alert in alerts()}
    routes = list(yaml.safe_load(ALERTMANAGER.read_text())["route"]["routes"])
    matchers = [
        matcher for route in routes for each in (route, *route.get("routes", ())) for matcher in each["matchers"]
    ]

    assert {matcher.partition(" = ")[2] for matcher in matchers} == severities | {"Banned"}
    assert "Banned" in GROUPS


def fire(url: str, named: list[tuple[str, str]], *, job: str = "bybit-gateway") -> None:
    labels = {"endpoint": "kline", "job": job}
    body = [
        {"labels": {**labels, "alertname": name, "group": GROUPS[name], "severity": SEVERITIES[name], "instance": each}}
        for name, each in named
    ]
    request = urllib.request.Request(
        f"{url}/api/v2/alerts", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 200


def inhibited(url: str, cause: str, here: str, elsewhere: str) -> set[tuple[str, str]] | None:
    """None: not all alerts have arrived."""
    with urllib.request.urlopen(f"{url}/api/v2/alerts", timeout=10) as answer:
        known: list[dict[str, Any]] = json.load(answer)
    ours = [each for each in known if each["labels"]["instance"] in {here, elsewhere}]
    if not any(each["labels"]["alertname"] == cause for each in ours):
        return None
    return {(each["labels"]["alertname"], each["labels"]["instance"]) for each in ours if each["status"]["inhibitedBy"]}


def pages(url: str, name: str) -> list[set[str]]:
    """Instances that are told of together, of the job of the replicas."""
    with urllib.request.urlopen(f"{url}/api/v2/alerts/groups?filter=job%3Dreplicas", timeout=10) as answer:
        groups: list[dict[str, Any]] = json.load(answer)
    return [
        {each["labels"]["instance"] for each in group["alerts"]}
        for group in groups
        if group["labels"]["alertname"] == name
    ]
