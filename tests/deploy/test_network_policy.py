"""Who may reach a gateway in a cluster, and whom it may reach. Rules are read as Kubernetes defines them."""

from __future__ import annotations

import ipaddress
from typing import Any, Final

import pytest

from tests.deploy.rendered import Rendered, charted, overlay

GATEWAYS: Final = [
    ("kustomize", "shared"),
    ("kustomize", "node-egress"),
    ("kustomize", "single"),
    ("helm", "autoscaled"),
]
GATEWAY: Final = {"app.kubernetes.io/name": "bybit-gateway", "app.kubernetes.io/instance": "gw"}
REDIS: Final = {"app.kubernetes.io/name": "bybit-gateway-redis"}
BOT: Final = {"bybit-gateway-client": "true"}
DNS: Final = {"k8s-app": "kube-dns"}
OURS, ELSEWHERE = "ours", "elsewhere"

each_gateway = pytest.mark.parametrize("which", GATEWAYS, ids="-".join)


def rules(which: tuple[str, str], direction: str) -> list[dict[str, Any]]:
    by, name = which
    found: Rendered = overlay(name) if by == "kustomize" else charted(name)
    policies = [each for each in found.of("NetworkPolicy") if not each["metadata"]["name"].endswith("redis")]
    (policy,) = policies
    assert sorted(policy["spec"]["policyTypes"]) == ["Egress", "Ingress"]
    allowed: list[dict[str, Any]] = policy["spec"][direction]
    return allowed


def pod_allowed(allowed: list[dict[str, Any]], labels: dict[str, str], namespace: str, port: int) -> bool:
    """Whether a pod with these labels, in `ours` or another namespace, is let through on this TCP port."""
    for rule in allowed:
        ports = [each["port"] for each in rule.get("ports", ()) if each["protocol"] == "TCP"]
        if "ports" in rule and port not in ports:
            continue
        for peer in rule.get("from", rule.get("to", ())):
            if "ipBlock" in peer:
                continue
            if "namespaceSelector" in peer:
                wanted = peer["namespaceSelector"].get("matchLabels", {})
                here = not wanted or wanted == {"kubernetes.io/metadata.name": namespace}
            else:
                here = namespace == OURS
            if here and peer.get("podSelector", {}).get("matchLabels", {}).items() <= labels.items():
                return True
    return False


def address_allowed(allowed: list[dict[str, Any]], address: str, port: int) -> bool:
    found = ipaddress.ip_address(address)
    for rule in allowed:
        if port not in [each["port"] for each in rule.get("ports", ()) if each["protocol"] == "TCP"]:
            continue
        for peer in rule["to"]:
            block = peer.get("ipBlock", {"cidr": "0.0.0.0/32"})
            inside = found in ipaddress.ip_network(block["cidr"])
            if inside and not any(found in ipaddress.ip_network(each) for each in block.get("except", ())):
                return True
    return False


@each_gateway
def test_bots_by_their_label_prometheus_and_other_gateways_come_in_and_nobody_else(which: tuple[str, str]) -> None:
    allowed = rules(which, "ingress")

    assert pod_allowed(allowed, BOT, OURS, 8080)
    assert pod_allowed(allowed, BOT, ELSEWHERE, 8080)
    assert pod_allowed(allowed, {}, "monitoring", 9090)
    assert not pod_allowed(allowed, {}, "monitoring", 8080)
    assert not pod_allowed(allowed, BOT, OURS, 9090)
    assert pod_allowed(allowed, GATEWAY, OURS, 40_000)  # the port on which it is asked whether it lives
    assert not pod_allowed(allowed, {}, OURS, 8080)
    assert not pod_allowed(allowed, {}, ELSEWHERE, 8080)
    assert not pod_allowed(allowed, BOT, ELSEWHERE, 40_000)
    assert not pod_allowed(allowed, GATEWAY, ELSEWHERE, 8080)


@each_gateway
def test_a_gateway_reaches_dns_redis_its_like_and_the_exchange_and_nothing_else(which: tuple[str, str]) -> None:
    allowed = rules(which, "egress")

    assert pod_allowed(allowed, DNS, "kube-system", 53)
    assert address_allowed(allowed, "169.254.20.10", 53)
    assert pod_allowed(allowed, REDIS, OURS, 6379)
    assert pod_allowed(allowed, GATEWAY, OURS, 40_000)
    assert not pod_allowed(allowed, REDIS, OURS, 22)
    assert not pod_allowed(allowed, DNS, "kube-system", 443)
    assert not pod_allowed(allowed, BOT, OURS, 8080)
    assert all("to" in rule for rule in allowed)  # one without would be everywhere


@pytest.mark.parametrize("which", [*GATEWAYS, ("kustomize", "sidecar")], ids="-".join)
def test_port_443_is_for_the_internet_and_not_for_what_lies_within(which: tuple[str, str]) -> None:
    allowed = rules(which, "egress")

    for public in ("18.155.68.10", "99.86.4.1", "2600:9000:2000::1"):
        assert address_allowed(allowed, public, 443)
        assert not address_allowed(allowed, public, 80)
    metadata, cluster = "169.254.169.254", "10.96.0.1"
    for private in (
        metadata,
        cluster,
        "172.20.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "127.0.0.1",
        "::1",
        "fd00::1",
        "fe80::1",
    ):
        assert not address_allowed(allowed, private, 443)


def test_a_sidecars_pod_lets_prometheus_in_and_nobody_else() -> None:
    allowed = rules(("kustomize", "sidecar"), "ingress")

    assert pod_allowed(allowed, {}, "monitoring", 9090)
    assert not pod_allowed(allowed, {}, "monitoring", 8080)
    assert not pod_allowed(allowed, BOT, OURS, 9090)


@pytest.mark.parametrize("name", ["shared", "node-egress"])
def test_redis_answers_gateways_and_asks_nobody(name: str) -> None:
    policy = overlay(name).one("NetworkPolicy", "bybit-gateway-redis")["spec"]

    assert pod_allowed(policy["ingress"], GATEWAY, OURS, 6379)
    assert not pod_allowed(policy["ingress"], BOT, OURS, 6379)
    assert not pod_allowed(policy["ingress"], GATEWAY, ELSEWHERE, 6379)
    assert policy["egress"] == []
    assert sorted(policy["policyTypes"]) == ["Egress", "Ingress"]
