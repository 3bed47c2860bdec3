"""Redis as deploy/ starts it: with the rights that are given, a gateway counts; with one less it says so."""

import json

import pytest
import yaml
from proxies import ADMIN_TOKEN, GATEWAY, KEY, Entry, free_port, running, wait_for
from tools import DEPLOY, KUBERNETES, SECRETS, WEIR, ask

from upstream import Upstream

CONF = (KUBERNETES / "overlays/example/redis.conf").read_text()
PLAIN = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]})


def compose_command():
    code, text = ask("docker-compose", "--env-file", "/dev/null", "-f", DEPLOY / "compose.yaml", "config", "--format", "json",
                     env=SECRETS)
    assert code == 0, text
    return json.loads(text)["services"]["redis"]["command"]


def kubernetes_command():
    manifests = yaml.safe_load_all((KUBERNETES / "overlays/example/redis.yaml").read_text())
    stateful = next(manifest for manifest in manifests if manifest["kind"] == "StatefulSet")
    args = stateful["spec"]["template"]["spec"]["containers"][0]["args"]
    return [arg.replace("$(REDIS_PASSWORD)", SECRETS["REDIS_PASSWORD"]) for arg in args]


def redis(folder, port, command):
    (folder / "redis").mkdir()
    conf = folder / "redis.conf"
    conf.write_text(CONF.replace("dir /data", f"dir {folder}/redis") + f"\nport {port}\nbind 127.0.0.1\n")
    program, file, *users = command
    assert (program, file) == ("redis-server", "/usr/local/etc/redis/redis.conf")
    return running([program, conf, *users], folder / "redis.log")


def gateway(folder, port, redis_port, admin, upstream):
    config = folder / "weir.toml"
    text = GATEWAY.format(host="127.0.0.1", port=port, admin=admin, token=ADMIN_TOKEN, upstream=upstream, key=KEY)
    config.write_text(f"""{text}
limits = {{ requests_per_minute = 60, concurrent = 4 }}
budgets = [{{ tokens = 1_000_000, per = "month" }}]
[redis]
url = "redis://weir:{SECRETS['REDIS_PASSWORD']}@127.0.0.1:{redis_port}"
timeout = "1s"
""")
    return running([WEIR, "serve", "--config", config], folder / "weir.log", {"WEIR_DATA_DIR": str(folder / "data")})


def redis_cli(port, *words):
    return ask("redis-cli", "-p", port, *words)[1].strip()


@pytest.mark.parametrize("command", [compose_command(), kubernetes_command()], ids=["compose", "kubernetes"])
def test_the_gateway_has_the_rights_that_it_needs_and_nobody_else_has_any(command, tmp_path):
    port, admin, redis_port = free_port(), free_port(), free_port()
    with Upstream() as upstream, redis(tmp_path, redis_port, command):
        wait_for(lambda: redis_cli(redis_port, "ping") == "PONG", "Redis answers its health check")
        assert "NOPERM" in redis_cli(redis_port, "get", "weir:{limits}:x")
        with gateway(tmp_path, port, redis_port, admin, upstream.port):
            client, plane = Entry(port), Entry(admin)
            wait_for(lambda: plane.ask("GET", "/readyz")[0] == 200, "the gateway is ready")
            token = {"authorization": f"Bearer {ADMIN_TOKEN}", "content_type": "application/json"}
            assert plane.ask("POST", "/admin/v1/keys", '{"name":"bob"}', **token)[0] in (200, 201)
            assert client.ask("POST", "/v1/chat/completions", PLAIN, authorization=f"Bearer {KEY}")[0] == 200
            metrics = plane.ask("GET", "/metrics")[2].decode().splitlines()
            found = {line.split()[0]: float(line.split()[1]) for line in metrics if line.startswith("weir_redis_")}
            assert found['weir_redis_up{of="limits"}'] == 1
            assert found['weir_redis_calls_total{of="limits"}'] > 0
            assert sum(count for name, count in found.items() if name.startswith("weir_redis_failures_total")) == 0


def test_a_right_that_is_missing_is_found(tmp_path):
    port, admin, redis_port = free_port(), free_port(), free_port()
    command = [word.replace("+fcall ", "") for word in compose_command()]
    with redis(tmp_path, redis_port, command):
        wait_for(lambda: redis_cli(redis_port, "ping") == "PONG", "Redis answers its health check")
        with gateway(tmp_path, port, redis_port, admin, 1) as child:
            assert child.wait(20) != 0
    assert "fcall" in (tmp_path / "weir.log").read_text()


def test_nothing_that_is_counted_is_thrown_away():
    settings = dict(line.split(maxsplit=1) for line in CONF.splitlines() if line and not line.startswith("#"))
    assert settings["maxmemory-policy"] == "noeviction"
    assert (settings["appendonly"], settings["appendfsync"]) == ("yes", "everysec")
