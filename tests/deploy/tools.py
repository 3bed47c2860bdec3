"""Where things lie, and how the programs that judge them are asked."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
WEIR = os.environ["WEIR_BIN"]

# What the files in deploy/ leave to whoever runs them.
SECRETS = {
    "WEIR_ADMIN_TOKEN": "admin-token-of-the-tests",
    "WEIR_KEY": "key-of-the-tests",
    "REDIS_PASSWORD": "password0of0the0tests",
    "GRAFANA_PASSWORD": "password-of-grafana",
    "REDIS_URL": "redis://weir:password@redis:6379",
}


def ask(*command, env=None, cwd=ROOT, stdin=""):
    """Runs a program. Returns its exit code, and all that it printed."""
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **(env or {})}
    done = subprocess.run(
        [str(word) for word in command], input=stdin, cwd=cwd, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False,
    )
    return done.returncode, done.stdout


def complaint(*command, **options):
    """What a program has to say against something; empty where it exits 0 and has nothing."""
    code, text = ask(*command, **options)
    return text or f"exit code {code}" if code else ""


def weir_check(config, tmp_path, **env):
    """What `weir check` says against a configuration, its warnings too."""
    env = {**SECRETS, "WEIR_DATA_DIR": str(tmp_path / "data"), **env}
    code, text = ask(WEIR, "check", "--config", config, env=env)
    *warnings, verdict = text.splitlines()
    return text if code or warnings or ": fine: " not in verdict else ""


def seconds(text):
    """A duration as Weir, compose and systemd write it."""
    units = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "": 1}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h|)", str(text)))


def toml(path):
    return tomllib.loads(Path(path).read_text())


def drain_timeout(config):
    return seconds(toml(config)["server"]["drain_timeout"])


def declared_metrics():
    """The names that the registry of the gateway declares."""
    sources = [ROOT / "src/metrics.rs", *(ROOT / "src/metrics").rglob("*.rs")]
    return {name for source in sources for name in re.findall(r'"(weir_[a-z0-9_]+)"', source.read_text())}


# How long a stop takes after `drain_timeout`: the farewell of streams, what breaks off, the ledger's last commit.
AFTER_DRAIN = 5
