"""deploy/kubernetes: as kustomize builds it, against the schemas of the oldest and the newest Kubernetes that it is for."""

import copy
import json
import tomllib
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml
from tools import AFTER_DRAIN, DEPLOY, KUBERNETES, ROOT, ask, declared_metrics, drain_timeout, weir_check

BASE = KUBERNETES / "base"
# The first that has `sleep` as a hook by default, and native sidecars; and the newest whose schemas can be had.
VERSIONS = ["1.30", "1.37"]
# What is no part of Kubernetes itself.
SCHEMAS = {kind: json.loads((Path(__file__).parent / f"{kind.lower()}.schema.json").read_text())
           for kind in ["ServiceMonitor", "PrometheusRule"]}


def build(folder):
    code, text = ask("kubectl", "kustomize", folder)
    assert code == 0, text
    return list(yaml.safe_load_all(text))


BUILT = {folder.name: build(folder) for folder in [BASE, KUBERNETES / "overlays/example"]}
ALL = [pytest.param(manifest, id=f"{folder}-{manifest['kind']}-{manifest['metadata']['name']}")
       for folder, manifests in BUILT.items() for manifest in manifests]


def problem(manifest, version):
    """What the schema says against a manifest."""
    try:
        if manifest["kind"] in SCHEMAS:
            jsonschema.validate(manifest, SCHEMAS[manifest["kind"]])
        else:
            kubernetes_validate.validate(manifest, version, strict=True)
    except (jsonschema.ValidationError, kubernetes_validate.ValidationError) as error:
        return str(error)
    return ""


def one(kind, name="weir", folder="base"):
    return next(manifest for manifest in BUILT[folder] if (manifest["kind"], manifest["metadata"]["name"]) == (kind, name))


def pod():
    return one("StatefulSet")["spec"]["template"]


def containers(template):
    spec = template["spec"]
    return spec.get("initContainers", []) + spec["containers"]


def container(name):
    return next(container for container in containers(pod()) if container["name"] == name)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("manifest", ALL)
def test_the_schema_takes_it(manifest, version):
    assert problem(manifest, version) == ""


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("manifest", ALL)
def test_the_schema_finds_what_is_broken(manifest, version):
    unknown = copy.deepcopy(manifest)
    unknown["matadata"] = {}
    assert problem(unknown, version) != ""
    wrong = copy.deepcopy(manifest)
    wrong["metadata"]["labels"] = ["weir"]
    assert problem(wrong, version) != ""


def test_kustomize_refuses_what_is_broken(tmp_path):
    (tmp_path / "kustomization.yaml").write_text((BASE / "kustomization.yaml").read_text())
    assert ask("kubectl", "kustomize", tmp_path)[0] != 0, "its resources are not there"


def test_the_configuration_is_one_as_it_is_mounted(tmp_path):
    volume = next(volume for volume in pod()["spec"]["volumes"] if volume["name"] == "config")["projected"]
    names = {source["configMap"]["name"] for source in volume["sources"] if "configMap" in source}
    for name in names:
        for file, text in one("ConfigMap", name)["data"].items():
            (tmp_path / file).write_text(text)
    for source in volume["sources"]:
        for item in source.get("secret", {}).get("items", []):
            place = tmp_path / item["path"]
            place.parent.mkdir(exist_ok=True)
            place.write_text("secret-of-the-tests")
    config = tmp_path / "weir.toml"
    assert weir_check(config, tmp_path) == ""
    config.write_text(config.read_text().replace("drain_timeout", "drain_time"))
    assert "drain_time" in weir_check(config, tmp_path)


def test_every_secret_that_is_used_is_made_by_the_example():
    made = set(one("Secret", folder="example")["data"])
    used = set()
    for template in [pod(), one("StatefulSet", "redis", "example")["spec"]["template"]]:
        for each in containers(template):
            used |= {env["valueFrom"]["secretKeyRef"]["key"] for env in each.get("env", []) if "valueFrom" in env}
        for volume in template["spec"].get("volumes", []):
            for source in volume.get("projected", {}).get("sources", []):
                used |= {item["key"] for item in source.get("secret", {}).get("items", [])}
    assert used == made


def test_there_is_time_to_drain():
    grace = pod()["spec"]["terminationGracePeriodSeconds"]
    pause = container("weir")["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert grace >= pause + drain_timeout(BASE / "weir.toml") + AFTER_DRAIN


def test_the_probes_ask_the_sidecar():
    opened = {port["containerPort"] for port in container("telemetry")["ports"]}
    weir = container("weir")
    paths = {}
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"]:
        assert weir[probe]["httpGet"]["port"] in opened
        paths[probe] = weir[probe]["httpGet"]["path"]
    assert paths == {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}
    assert container("telemetry")["restartPolicy"] == "Always", "a sidecar, not a step before the start"


@pytest.mark.parametrize("manifest", [param for param in ALL if param.values[0]["kind"] == "StatefulSet"])
def test_the_pods_are_restricted(manifest):
    template = manifest["spec"]["template"]
    context = template["spec"]["securityContext"]
    assert context["runAsNonRoot"] and context["runAsUser"] > 0
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert template["spec"]["automountServiceAccountToken"] is False
    for each in containers(template):
        assert each["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        }, each["name"]
        assert {"cpu", "memory"} <= each["resources"]["requests"].keys() and "memory" in each["resources"]["limits"]


def test_it_scales_by_a_metric_that_is_there():
    name = one("HorizontalPodAutoscaler")["spec"]["metrics"][0]["pods"]["metric"]["name"]
    assert name in declared_metrics()
    rules = yaml.safe_load((KUBERNETES / "prometheus-adapter.values.yaml").read_text())["rules"]["custom"]
    assert any(rule["seriesQuery"].startswith(name + "{") for rule in rules)
    assert "replicas" not in one("StatefulSet")["spec"], "the autoscaler says how many"


def test_without_redis_all_replicas_together_let_no_more_through_than_the_limit():
    share = tomllib.loads(one("ConfigMap")["data"]["weir.toml"])["redis"]["local_share"]
    assert share * one("HorizontalPodAutoscaler")["spec"]["maxReplicas"] <= 1


def test_selectors_meet_what_they_are_for():
    labels = pod()["metadata"]["labels"]
    for selector in [
        one("StatefulSet")["spec"]["selector"]["matchLabels"], one("Service")["spec"]["selector"],
        one("Service", "weir-pods")["spec"]["selector"], one("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        one("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        *(spread["labelSelector"]["matchLabels"] for spread in pod()["spec"]["topologySpreadConstraints"]),
    ]:
        assert selector.items() <= labels.items()
    monitor = one("ServiceMonitor")["spec"]
    seen = [service for service in BUILT["base"] if service["kind"] == "Service"
            and monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()]
    assert [service["metadata"]["name"] for service in seen] == ["weir-pods"]
    assert monitor["endpoints"][0]["port"] in {port["name"] for port in seen[0]["spec"]["ports"]}
    # The name of a sidecar's port is not found by Kubernetes before 1.32.
    ports = {port["name"] for each in pod()["spec"]["containers"] for port in each["ports"]}
    ports |= {port["containerPort"] for each in containers(pod()) for port in each["ports"]}
    for rule in one("NetworkPolicy")["spec"]["ingress"]:
        assert {port["port"] for port in rule["ports"]} <= ports
    for service in [one("Service"), one("Service", "weir-pods")]:
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports


def test_the_rules_are_those_of_prometheus():
    groups = [group for name in ["recording", "alerts"]
              for group in yaml.safe_load((DEPLOY / f"prometheus/weir.{name}.rules.yml").read_text())["groups"]]
    assert one("PrometheusRule", folder="example")["spec"]["groups"] == groups, "run build.py in components/monitoring"
    files = {path.name for path in (DEPLOY / "prometheus").glob("*.rules.yml")}
    assert files == {"weir.recording.rules.yml", "weir.alerts.rules.yml"}


def test_grafana_gets_every_dashboard():
    maps = [manifest for manifest in BUILT["example"]
            if manifest["metadata"].get("labels", {}).get("grafana_dashboard") == "1"]
    told = {file: text for manifest in maps for file, text in manifest["data"].items()}
    assert told == {path.name: path.read_text() for path in (ROOT / "dashboards").glob("*.json")}
    # What `kubectl apply` notes of a manifest has to fit into an annotation.
    assert all(len(json.dumps(manifest)) < 256 << 10 for manifest in maps)


def test_nobody_but_monitoring_reaches_the_telemetry_and_nobody_the_admin_plane():
    rules = one("NetworkPolicy")["spec"]["ingress"]
    sources = [rule["from"] for rule in rules if 8082 in {port["port"] for port in rule["ports"]}]
    assert sources == [[{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]]
    assert not any(port["containerPort"] == 8081 for each in containers(pod()) for port in each["ports"])
    assert 'listen = "127.0.0.1:8081"' in one("ConfigMap")["data"]["weir.toml"]


def test_each_ledger_is_its_own_and_stays():
    spec = one("StatefulSet")["spec"]
    assert [claim["metadata"]["name"] for claim in spec["volumeClaimTemplates"]] == ["ledger"]
    assert set(spec["persistentVolumeClaimRetentionPolicy"].values()) == {"Retain"}
    mounts = {mount["name"]: mount["mountPath"] for mount in container("weir")["volumeMounts"]}
    assert mounts["ledger"] == "/var/lib/weir"
