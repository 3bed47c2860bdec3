"""What dashboards and rules ask Prometheus, and what they lean on: names, labels, variables."""

import json
import pathlib
import re

import yaml

ROOT = pathlib.Path(__file__).parents[2]
DASHBOARDS = sorted((ROOT / "dashboards").glob("*.json"))
RULES = sorted((ROOT / "deploy/prometheus").glob("*.rules.yml"))

# What Prometheus adds of itself.
ADDED = {"job", "instance"}
PROMETHEUS = {"up": ADDED, "ALERTS": ADDED | {"alertname", "alertstate", "severity"}}

STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
SELECTOR = re.compile(r"\b((?:[a-z_]+:)?weir[a-z0-9_:]*|process_[a-z_]+|up|ALERTS)\b(?!\s*\()(?:\s*\{([^}]*)\})?")
GROUPING = re.compile(r"\b(?:by|on|ignoring|without|group_left|group_right)\s*\(([^)]*)\)")


def dashboards():
    """Every dashboard, with its file's name."""
    return [(path.name, json.loads(path.read_text())) for path in DASHBOARDS]


def panels():
    """Every panel that asks something: (where it stands, the dashboard, the panel)."""
    for name, dashboard in dashboards():
        for panel in dashboard["panels"]:
            if panel["type"] != "row":
                yield f"{name}: {panel['title']}", dashboard, panel


def rules():
    """Every rule of every group."""
    return [rule for path in RULES for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def alerts():
    return [rule for rule in rules() if "alert" in rule]


def records():
    return [rule for rule in rules() if "record" in rule]


def substituted(expression, values, rate="2m", span="5m", interval="1h"):
    """The expression as Grafana would send it, with these values of the variables."""
    expression = expression.replace("$__rate_interval", rate).replace("$__range", span).replace("$__interval", interval)
    for name, value in values.items():
        expression = expression.replace(f"${name}", value)
    assert "$" not in expression, f"a variable is not known: {expression}"
    return expression


def escaped(value):
    """A value of a variable that may have several, as Grafana's data source for Prometheus writes it into a string."""
    return re.sub(r"[$^*{}\[\]'+?.()|]", r"\\\\\g<0>", value.replace("\\", "\\\\\\\\"))


def everything(variable, values):
    """What `All` of a variable stands for."""
    return variable.get("allValue") or f"({'|'.join(map(escaped, values))})"


def level(record):
    """The labels of a recorded series: its name begins with them."""
    first = record.split(":")[0]
    return set() if first == "weir" else set(first.split("_"))


def base(name, declared):
    """The metric that a series belongs to: a histogram has three names more."""
    for suffix in ("_bucket", "_sum", "_count"):
        if name.endswith(suffix) and name not in declared:
            return name.removesuffix(suffix), {"le"} if suffix == "_bucket" else set()
    return name, set()


def undeclared(expression, declared):
    """What an expression uses that `declared`, {metric: labels}, does not have."""
    wrong, known = [], set()
    # Braces within strings are no selectors.
    for name, matchers in SELECTOR.findall(expression):
        metric, more = base(name, declared)
        if metric not in declared:
            wrong.append(f"no metric {name}")
            continue
        labels = declared[metric] | ADDED | more
        known |= labels
        used = re.findall(r"([a-zA-Z_]\w*)\s*(?:=~|!~|!=|=)", STRING.sub('""', matchers))
        wrong += [f"{name} has no label {label}" for label in used if label not in labels]
    for labels in GROUPING.findall(STRING.sub('""', expression)):
        wrong += [f"nothing in it has a label {label}" for label in re.findall(r"\w+", labels) if label not in known]
    return wrong


SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def hurried(text, by=30, least=10):
    """Rules that do in seconds what they do in hours: each window and interval is `by` times shorter, each wait 1 s."""

    def shorter(match):
        seconds = int(match[1]) * SECONDS[match[2]]
        return f"{max(least, seconds // by)}s"

    text = re.sub(r"\[(\d+)([smhd])\]", lambda match: f"[{shorter(match)}]", text)
    text = re.sub(
        r"(?m)^(\s+interval: )(\d+)([smhd])$",
        lambda match: match[1] + shorter(re.match(r"(\d+)(\w)", match[2] + match[3])),
        text,
    )
    return re.sub(r"(?m)^(\s+for: )\w+$", r"\g<1>1s", text)
