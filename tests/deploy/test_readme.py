"""deploy/README.md: its links lead somewhere, and the figures that it repeats are those of the files."""

import re

import pytest
from test_redis import compose_command, kubernetes_command
from tools import DEPLOY, KUBERNETES, ROOT

TEXT = (DEPLOY / "README.md").read_text()


def anchors(text):
    """What GitHub makes of headings."""
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(text):
    dead = []
    for target in re.findall(r"\]\(([^)]+)\)", text):
        path, _, anchor = target.partition("#")
        file = DEPLOY / path if path else DEPLOY / "README.md"
        if not file.exists() or (anchor and anchor not in anchors(file.read_text())):
            dead.append(target)
    return dead


def test_links_lead_somewhere():
    assert dead_links(TEXT) == []
    assert "deploy/README.md" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("link", ["[x](nginx/gone.conf)", "[x](#gone)", "[x](../README.md#gone)"])
def test_dead_links_are_found(link):
    assert dead_links(link)


def test_the_rights_at_redis_are_the_same_everywhere():
    told = re.search(r"`(~weir:\*[^`]+)`", TEXT).group(1).split()
    for command in [compose_command(), kubernetes_command()]:
        user = next(word for word in command if word.startswith("--user weir ")).split()
        assert user[user.index("~weir:*"):] == told


def test_the_times_of_a_stop_are_those_of_the_files():
    for time, file, setting in [
        ("75s", DEPLOY / "systemd/weir.service", "TimeoutStopSec=75"),
        ("(90)", KUBERNETES / "base/statefulset.yaml", "terminationGracePeriodSeconds: 90"),
        ("60s", KUBERNETES / "base/weir.toml", 'drain_timeout = "60s"'),
        ("11 minutes", DEPLOY / "nginx/weir.conf", "proxy_read_timeout    11m;"),
        ("11 minutes", DEPLOY / "haproxy/weir.cfg", "timeout server 11m"),
        ("500 to a replica", KUBERNETES / "base/horizontalpodautoscaler.yaml", 'averageValue: "500"'),
    ]:
        assert time in TEXT and setting in file.read_text(), (time, file.name)
