"""deploy/compose.yaml and what it mounts: as compose reads it."""

import json
import re
from pathlib import Path

import pytest
import yaml
from tools import AFTER_DRAIN, DEPLOY, SECRETS, ask, complaint, declared_metrics, drain_timeout, seconds, weir_check

FILE = DEPLOY / "compose.yaml"
CONFIG = DEPLOY / "compose/weir.toml"


def config(path, **env):
    return ask("docker-compose", "--project-directory", DEPLOY, "--env-file", "/dev/null", "-f", path,
               "config", "--format", "json", env={**SECRETS, **env})


def services():
    code, text = config(FILE)
    assert code == 0, text
    return json.loads(text)["services"]


def test_compose_takes_it():
    assert {"weir-1", "weir-2", "balancer", "redis", "prometheus", "grafana"} <= services().keys()


@pytest.mark.parametrize("change", [
    ("cap_drop: [ALL]", "cap_drop: ALL"),
    ("stop_grace_period: 75s", "stop_grace_period: soon"),
    ("restart: unless-stopped", "restrat: unless-stopped"),
    ("network_mode: service:telemetry-2", "network_mode: service:telemetry-3"),
    ("  ledger-2: {}\n", ""),
])
def test_compose_refuses_what_is_broken(tmp_path, change):
    text = FILE.read_text()
    assert change[0] in text
    broken = tmp_path / "compose.yaml"
    broken.write_text(text.replace(*change))
    assert config(broken)[0] != 0


@pytest.mark.parametrize("name", ["WEIR_ADMIN_TOKEN", "WEIR_KEY", "REDIS_PASSWORD", "GRAFANA_PASSWORD"])
def test_it_does_not_start_without_a_secret(name):
    code, text = config(FILE, **{name: ""})
    assert code != 0 and name in text


def test_the_example_names_every_variable():
    used = set(re.findall(r"\$\{([A-Z_]+)", FILE.read_text()))
    named = set(re.findall(r"^([A-Z_]+)=", (DEPLOY / "compose/env.example").read_text(), re.M))
    assert used == named


def test_every_file_that_is_mounted_is_there():
    for name, service in services().items():
        for volume in service.get("volumes", []):
            if volume["type"] == "bind" and not volume["source"].endswith("/dashboards"):
                assert Path(volume["source"]).exists(), (name, volume["source"])


def test_each_weir_is_found_by_its_name_and_comes_back_into_its_network():
    all_ = services()
    for name in ["weir-1", "weir-2"]:
        owner = all_[name]["network_mode"].removeprefix("service:")
        assert all_[owner]["networks"]["front"]["aliases"] == [name], "who outlives it owns the network, under its name"
        assert all_[name]["depends_on"][owner]["restart"], "a new network needs a new start"
        assert all_["balancer"]["depends_on"][name]["condition"] == "service_healthy"
    assert set(all_["balancer"]["environment"].values()) == {"weir-1:8080", "weir-2:8080"}


def test_each_weir_is_asked_whether_it_takes_calls_not_only_whether_it_is_there():
    image = (DEPLOY / "Dockerfile").read_text()
    command = json.loads(re.search(r"^HEALTHCHECK (?:.|\\\n)*?CMD (\[.*\])$", image, re.M).group(1))
    assert command.pop() == "--live"
    for name in ["weir-1", "weir-2"]:
        assert services()[name]["healthcheck"]["test"] == ["CMD", *command]


def test_no_two_share_a_ledger():
    state = [volume["source"] for name in ["weir-1", "weir-2"] for volume in services()[name]["volumes"]
             if volume["target"] == "/var/lib/weir"]
    assert len(set(state)) == 2


def test_all_are_locked_down_and_pinned():
    for name, service in services().items():
        assert service["read_only"] and service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert re.search(r":v?\d", service["image"]), (name, service["image"])
        for port in service.get("ports", []):
            assert port.get("host_ip") == "127.0.0.1", (name, "open to all by default")


def test_the_gateways_have_time_to_drain():
    for name in ["weir-1", "weir-2", "balancer"]:
        assert seconds(services()[name]["stop_grace_period"]) >= drain_timeout(CONFIG) + AFTER_DRAIN, name


def test_the_configuration_is_one(tmp_path):
    assert weir_check(CONFIG, tmp_path) == ""


def test_prometheus_takes_its_configuration(tmp_path):
    file = DEPLOY / "prometheus/prometheus.yml"
    assert complaint("promtool", "check", "config", file) == ""
    broken = tmp_path / "prometheus.yml"
    broken.write_text(file.read_text().replace("scrape_interval", "scrape_intervall"))
    assert complaint("promtool", "check", "config", broken) != ""


def test_prometheus_asks_what_is_there():
    jobs = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    targets = next(job for job in jobs if job["job_name"] == "weir")["static_configs"][0]["targets"]
    opened = {f"{alias}:8082" for name, service in services().items() if name.startswith("telemetry-")
              for alias in service["networks"]["front"]["aliases"]}
    assert set(targets) == opened
    assert declared_metrics(), "the registry is found"


def test_grafana_finds_its_source_and_its_dashboards():
    folder = DEPLOY / "grafana/provisioning"
    source = yaml.safe_load((folder / "datasources/prometheus.yaml").read_text())["datasources"][0]
    assert source["url"] == "http://prometheus:9090"
    path = yaml.safe_load((folder / "dashboards/weir.yaml").read_text())["providers"][0]["options"]["path"]
    mounts = {volume["target"]: volume["source"] for volume in services()["grafana"]["volumes"]}
    assert mounts[path] == str(DEPLOY.parent / "dashboards")
