"""The Kubernetes manifests: their configuration is valid, and names, ports, paths and limits agree with it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from imagedist.config import AgentConfig, ProxyConfig, SeederConfig, parse_size

DEPLOY = Path(__file__).parents[2] / "deploy"
DOCUMENTS: dict[tuple[str, str], dict[str, Any]] = {
    (document["kind"], document["metadata"]["name"]): document
    for path in sorted(DEPLOY.glob("kubernetes/*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
}
SITE, NODE = DOCUMENTS["StatefulSet", "imagedist-site"], DOCUMENTS["DaemonSet", "imagedist-agent"]
FILES: dict[str, str] = {
    **DOCUMENTS["ConfigMap", "imagedist-site"]["data"],
    **DOCUMENTS["ConfigMap", "imagedist-node"]["data"],
}
PROXY = ProxyConfig.model_validate(tomllib.loads(FILES["proxy.toml"]))
SEEDER = SeederConfig.model_validate(tomllib.loads(FILES["seeder.toml"]))
AGENT = AgentConfig.model_validate(tomllib.loads(FILES["agent.toml"]))


def pod(workload: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = workload["spec"]["template"]["spec"]
    return spec


def containers() -> list[Any]:
    found = [
        (name, each) for name, workload in (("site", SITE), ("node", NODE)) for each in pod(workload)["containers"]
    ]
    return [pytest.param(pod(SITE if name == "site" else NODE), each, id=each["name"]) for name, each in found]


def test_ports_are_those_that_the_processes_listen_on() -> None:
    opened = {port["name"]: port["containerPort"] for each in pod(SITE)["containers"] for port in each["ports"]}
    assert opened == {
        "proxy": PROXY.proxy.listen.port,
        "seeder": SEEDER.seeder.listen.port,
        "bittorrent": SEEDER.seeder.bittorrent.port,
    }
    service = DOCUMENTS["Service", "imagedist-site"]["spec"]
    assert {port["name"]: port["port"] for port in service["ports"]} == opened, "peers meet the seed at its own port"
    assert (
        service["selector"] == SITE["spec"]["template"]["metadata"]["labels"] == SITE["spec"]["selector"]["matchLabels"]
    )
    (node,) = pod(NODE)["containers"]
    assert [port["containerPort"] for port in node["ports"]] == [AGENT.agent.bittorrent.port]
    for probe in ("livenessProbe", "readinessProbe"):
        asked = node[probe]["httpGet"]
        assert f"{asked['host']}:{asked['port']}" == str(AGENT.agent.listen)


def test_a_seeder_that_is_not_ready_does_not_take_the_proxy_of_its_pod_away_from_the_nodes() -> None:
    assert SITE["spec"]["replicas"] == 1
    assert DOCUMENTS["Service", "imagedist-site"]["spec"]["publishNotReadyAddresses"] is True


def test_nodes_find_the_site_by_its_service() -> None:
    service = DOCUMENTS["Service", "imagedist-site"]["metadata"]
    base = f"http://{service['name']}.{service['namespace']}.svc"
    assert AGENT.agent.site_proxies == (f"{base}:{PROXY.proxy.listen.port}",)
    assert AGENT.agent.site_seeders == (f"{base}:{SEEDER.seeder.listen.port}",)
    assert pod(NODE)["hostNetwork"]
    assert pod(NODE)["dnsPolicy"] == "ClusterFirstWithHostNet", "which a pod in the host's network needs for that name"


@pytest.mark.parametrize(("spec", "container"), containers())
def test_every_path_of_its_configuration_lies_on_a_volume(spec: dict[str, Any], container: dict[str, Any]) -> None:
    config = Path(container["command"][-1])
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    declared = {volume["name"] for volume in spec["volumes"]}
    declared |= (
        {claim["metadata"]["name"] for claim in SITE["spec"]["volumeClaimTemplates"]} if spec is pod(SITE) else set()
    )
    assert set(mounts.values()) <= declared
    assert str(config.parent) in mounts
    for path in re.findall(r'"(?:sqlite:///)?(/[^"]+)"', FILES[config.name]):
        assert any(Path(path).is_relative_to(mount) for mount in mounts), path


@pytest.mark.parametrize(("spec", "container"), containers())
def test_a_container_has_what_its_unit_allows_and_no_more(spec: dict[str, Any], container: dict[str, Any]) -> None:
    unit = (DEPLOY / f"systemd/imagedist-{container['name']}.service").read_text()
    named = " ".join(re.findall(r"^CapabilityBoundingSet=(.*)$", unit, re.MULTILINE)).split()
    context = container["securityContext"]
    assert context["capabilities"]["drop"] == ["ALL"]
    assert set(context["capabilities"].get("add", ())) == {each.removeprefix("CAP_") for each in named}
    assert context["readOnlyRootFilesystem"]
    assert not context["allowPrivilegeEscalation"]


def test_a_node_has_memory_for_its_ramdisk_and_time_to_drain() -> None:
    (node,) = pod(NODE)["containers"]
    assert AGENT.unpack.ramdisk_budget is not None
    assert parse_size(f"{node['resources']['limits']['memory']}B") >= int(AGENT.unpack.ramdisk_budget) + (512 << 20)
    assert pod(NODE)["terminationGracePeriodSeconds"] > AGENT.agent.drain.total_seconds()
    assert pod(SITE)["terminationGracePeriodSeconds"] > PROXY.proxy.drain.total_seconds()
    claim = SITE["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"]
    assert PROXY.proxy.site_blobs_quota is not None
    assert int(PROXY.proxy.site_blobs_quota) < parse_size(f"{claim}B")


def test_no_pod_holds_the_snapshotter_that_its_containerd_would_need_to_start_it() -> None:
    assert AGENT.snapshotter is None
    assert [each["name"] for each in pod(NODE)["containers"]] == ["agent"]
