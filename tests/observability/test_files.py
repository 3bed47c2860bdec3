"""What can be said of dashboards and rules without running anything."""

import re
import subprocess

import pytest
from promql import DASHBOARDS, ROOT, RULES, alerts, base, dashboards, panels, records

HERE = ROOT / "tests/observability"
NODE_MODULES = ROOT / "target/clients/observability-node"


def run(*command):
    done = subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_dashboards_are_as_their_source_writes_them():
    run("python3", "dashboards/build.py", "--check")


def test_dashboards_hold_to_the_schema_that_grafana_publishes():
    node = NODE_MODULES / "node_modules/.bin/node"
    run(node if node.exists() else "node", HERE / "schema.mjs", NODE_MODULES / "node_modules", *DASHBOARDS)


def test_the_rules_and_the_scrape_configuration_are_valid():
    run("promtool", "check", "rules", *RULES)
    configurations = set((ROOT / "deploy/prometheus").glob("*.yml")) - set(RULES)
    assert configurations
    run("promtool", "check", "config", *configurations)


@pytest.mark.parametrize("file", ["rules.test.yml", "rules.days.test.yml"])
def test_alerts_wait_as_long_as_they_should_and_no_longer(file):
    run("promtool", "test", "rules", HERE / file)


@pytest.mark.parametrize("place, dashboard, panel", [pytest.param(*each, id=each[0]) for each in panels()])
def test_a_panel_explains_itself(place, dashboard, panel):
    assert len(panel["description"]) >= 20 and panel["description"].endswith((".", "?"))
    defaults = panel["fieldConfig"]["defaults"]
    assert defaults["unit"] and defaults["thresholds"]["steps"]
    assert defaults["noValue"], "it would say No data"
    assert panel["datasource"]["uid"] == "${datasource}"
    if len(panel["targets"]) > 1 and panel["type"] != "table":
        assert all(target["legendFormat"] != "__auto" for target in panel["targets"])
    if panel["type"] == "timeseries":
        assert panel["options"]["legend"]["displayMode"] == "table" and "max" in panel["options"]["legend"]["calcs"]
    for target in panel["targets"]:
        # Nothing is divided by what may be 0: it is held above it, left out where it is 0, or a number.
        divisors = re.findall(r"/\s*(?:on \(\) )?(.*)", target["expr"])
        safe = re.compile(r"clamp_min ?\(|\([a-z_:]+(\{[^}]*\})? > 0\)|1e9\b")
        assert all(safe.match(divisor) for divisor in divisors), f"may divide by zero: {target['expr']}"


def test_dashboards_can_be_provisioned_side_by_side():
    every = [dashboard for _, dashboard in dashboards()]
    assert {dashboard["uid"] for dashboard in every} == {f"weir-{path.stem}" for path in DASHBOARDS}
    for dashboard in every:
        variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
        assert variables["datasource"]["type"] == "datasource" and variables["datasource"]["query"] == "prometheus"
        for name in ("team", "key", "model", "upstream"):
            assert variables[name]["multi"] and variables[name]["includeAll"]
        # A variable that may have several values, or hold dots and stars, is a regular expression and nothing else.
        for target in (target for panel in dashboard["panels"] for target in panel.get("targets", [])):
            used = re.findall(r"\$(?:team|key|model|upstream)\b", target["expr"])
            assert len(used) == len(re.findall(r'=~"\$(?:team|key|model|upstream)"', target["expr"])), target["expr"]
        assert "id" not in dashboard
        cells = [
            (p["gridPos"]["x"], p["gridPos"]["y"], p["gridPos"]["w"], p["gridPos"]["h"]) for p in dashboard["panels"]
        ]
        taken = [(x + i, y + j) for x, y, w, h in cells for i in range(w) for j in range(h)]
        assert len(taken) == len(set(taken)), "panels overlap"
        assert max(x for x, _ in taken) == 23


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_an_alert_says_what_it_is_about_and_what_to_do(rule):
    runbook = (ROOT / "deploy/RUNBOOK.md").read_text()
    assert rule["labels"]["severity"] in ("page", "ticket", "info")
    note = rule["annotations"]
    assert note["summary"] and note["description"].endswith(".")
    path, anchor = note["runbook_url"].split("#")
    assert path == "deploy/RUNBOOK.md" and anchor == rule["alert"].lower()
    section = re.search(rf"(?ms)^## {rule['alert']}\n(.*?)(?=^## |\Z)", runbook)
    assert section, "the runbook has no such heading"
    for part in ("**Means**", "**Users see**", "**First looks**"):
        assert part in section[1]
    assert re.search(r"\*\*[Dd]o\*\*", section[1])


def test_the_runbook_has_nothing_else_and_names_dashboards_and_panels_that_exist():
    runbook = (ROOT / "deploy/RUNBOOK.md").read_text()
    assert re.findall(r"(?m)^## (\w+)", runbook) and set(re.findall(r"(?m)^## (\w+)", runbook)) == {
        rule["alert"] for rule in alerts()
    }
    titles = {dashboard["title"].removeprefix("Weir: ") for _, dashboard in dashboards()}
    named = {re.sub(r"\s+", " ", name) for name in re.findall(r"(?<!\*)\*([A-Z][a-z][^*]+)\*(?!\*)", runbook)}
    assert named and named <= titles, named - titles


def test_no_name_is_recorded_twice():
    names = [rule["record"] for rule in records()]
    assert len(names) == len(set(names)) and base(names[0], names)[0] == names[0]
