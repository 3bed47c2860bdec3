"""What is around the panels: variables, links, rows; and the panels that several dashboards have."""

from .expressions import REQUEST, SERVED, UPSTREAM, limits_of, or_zero, quantile, rate
from .panels import BAD, DATASOURCE, FAIR, GOOD, POOR, bars, series, states, thresholds


def variable(name, label, query, anything=True):
    """Of any values, or of all; Grafana writes them as a regular expression with what is special in them escaped.

    `anything`: All is whatever there is, with what the list lacks; otherwise just the values of the list.
    """
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": DATASOURCE,
        "query": {"qryType": 1, "query": query, "refId": "PrometheusVariableQueryEditor-VariableQuery"},
        "refresh": 2,
        "sort": 5,
        "multi": True,
        "includeAll": True,
        **({"allValue": ".*"} if anything else {}),
        "current": {"text": ["All"], "value": ["$__all"]},
        "options": [],
        "regex": "",
    }


def dashboard(uid, title, description, rows, since="now-6h", refresh="30s", upstreams="weir_upstream_ready"):
    """Rows of (title, height, [(width, panel), ...]); a panel that does not fit begins the next line."""
    panels, y, number = [], 0, 0
    for heading, height, content in rows:
        number += 1
        grid = {"h": 1, "w": 24, "x": 0, "y": y}
        panels.append(
            {"type": "row", "id": number, "title": heading, "collapsed": False, "gridPos": grid, "panels": []}
        )
        y, x = y + 1, 0
        for width, it in content:
            if x + width > 24:
                x, y = 0, y + height
            number += 1
            panels.append({"id": number, "gridPos": {"h": height, "w": width, "x": x, "y": y}, **it})
            x += width
        y += height
    datasource = {
        "type": "datasource",
        "name": "datasource",
        "label": "Data source",
        "query": "prometheus",
        "refresh": 1,
        "multi": False,
        "includeAll": False,
        "current": {"text": "default", "value": "default"},
        "options": [],
        "regex": "",
    }
    return {
        "uid": uid,
        "title": f"Weir: {title}",
        "description": description,
        "tags": ["weir"],
        "schemaVersion": 42,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": refresh,
        "time": {"from": since, "to": "now"},
        "timepicker": {"refresh_intervals": ["10s", "30s", "1m", "5m", "15m", "1h"]},
        "timezone": "browser",
        "annotations": {"list": []},
        "links": [
            {
                "type": "dashboards",
                "title": "Weir",
                "tags": ["weir"],
                "asDropdown": False,
                "icon": "external link",
                "includeVars": True,
                "keepTime": False,
                "targetBlank": False,
                "tooltip": "",
            }
        ],
        "templating": {
            "list": [
                datasource,
                variable("team", "Team", "label_values(weir_requests_total, team)"),
                variable("key", "Key", 'label_values(weir_requests_total{team=~"$team"}, key)'),
                variable("model", "Model", "label_values(weir_requests_total, model)"),
                variable(
                    "upstream", "Upstream", f"label_values({upstreams}, upstream)", upstreams == "weir_upstream_ready"
                ),
            ]
        },
        "panels": panels,
    }


def upstream_health():
    return states(
        "Upstreams",
        "Whether each upstream is well: red where all its endpoints are ejected or all its credentials refused, or the local "
        "model is not there, at one gateway at least.",
        f"min by (upstream) (weir_upstream_ready{{{UPSTREAM}}})",
        "{{upstream}}",
        {0: ("down", BAD), 1: ("ready", GOOD)},
        "No upstream is configured",
    )


def outcomes():
    parts = {
        "answered": 'cause=""',
        **{who: f'cause=~"{who}_.*"' for who in ("client", "policy", "upstream", "gateway")},
    }
    return series(
        "Requests by who is to blame",
        "All requests: answered; refused for the client's own mistake (a wrong key, a bad body, or it left); refused by policy "
        "(a limit, a budget, an allow-list); failed upstream; failed in the gateway. Only the last two are failures.",
        [(or_zero(rate("weir_requests_total", f"{REQUEST}, {cause}")), who) for who, cause in parts.items()],
        "reqps",
        stack=True,
    )


def first_token(labels=SERVED):
    return [(quantile(q, "weir_time_to_first_token_seconds", labels), f"p{round(q * 100)}") for q in (0.5, 0.95, 0.99)]


def budgets():
    return bars(
        "Budgets used",
        "How much of each budget of the selected teams and keys is used up, in money or tokens. At 100 % calls are refused "
        "with 429 until the period ends.",
        limits_of("weir_budget_used_ratio", "holder, name, unit, per"),
        "{{holder}} {{name}}, {{unit}} per {{per}}",
        steps=thresholds((None, GOOD), (0.8, FAIR), (0.9, POOR), (1, BAD)),
        empty="No budget is configured",
    )
