#!/usr/bin/env python3
"""Writes the dashboards beside it: `dashboards/build.py`; with `--check` it only says whether they are as it would write them.

The five dashboards are the five functions at the end, panel by panel. What comes before gives all of them the same looks:
colours by what a thing means, legends as small tables, an explanation on every panel, and expressions that have an answer
also when nothing happens.
"""

import json
import pathlib
import sys

FOLDER = pathlib.Path(__file__).parent
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}

# What the variables select, by the labels that a metric has.
REQUEST = 'team=~"$team", key=~"$key", model=~"$model", upstream=~"$upstream"'
CALLER = 'team=~"$team", key=~"$key"'
SAVED = 'team=~"$team", key=~"$key", model=~"$model"'
SERVED = 'model=~"$model", upstream=~"$upstream"'
MODEL = 'model=~"$model"'
UPSTREAM = 'upstream=~"$upstream"'
RATE = "[$__rate_interval]"
RANGE = "[$__range]"

FAILED = 'cause=~"upstream_.*|gateway_.*"'

# One colour for one meaning, on all dashboards.
GOOD, FAIR, POOR, BAD, CALM, OTHER = "green", "yellow", "orange", "red", "blue", "purple"
COLOURS = {
    "answered": GOOD, "client": CALM, "policy": FAIR, "upstream": POOR, "gateway": BAD,
    "p50": GOOD, "p95": POOR, "p99": BAD,
    "first token p50": GOOD, "first token p95": POOR, "whole answer p50": CALM, "whole answer p95": OTHER,
    "input": "blue", "cached_input": "light-blue", "cache_write": "super-light-blue", "output": "orange",
    "reasoning": "light-orange", "input_audio": "purple", "output_audio": "light-purple",
    "hit": GOOD, "joined": "light-green", "miss": CALM, "bypass": "text",
    "used": CALM, "limit": BAD, "in_use": GOOD, "ejected": BAD, "limited": FAIR, "refused": BAD,
    "retry": FAIR, "fallback": POOR, "hedge": OTHER, "prefill": CALM, "decode": POOR,
}


# === Expressions ===


def rate(metric, labels, by="", window=RATE):
    """The rate of a counter, summed up by some labels."""
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{{{labels}}}{window}))"


def or_zero(expression):
    """A number also where there is no series yet. Only for what has no labels."""
    return f"{expression} or vector(0)"


def share(part, whole):
    """A part of a whole, both without labels; 0 where there is nothing to be a part of."""
    return f"({part} or vector(0)) / clamp_min({whole} or vector(0), 1e-9)"


def share_by(part, whole):
    """A part of a whole, both with the same labels; 0 where the part has no series or the whole is 0."""
    return f"({part} or 0 * {whole}) / clamp_min({whole}, 1e-9)"


def quantile(q, metric, labels, by=""):
    """A quantile of a histogram. Where nothing was observed there is none (it would be NaN)."""
    by = f"{by}, le" if by else "le"
    return f"histogram_quantile({q}, sum by ({by}) (rate({metric}_bucket{{{labels}}}{RATE}))) >= 0"


def total(record, labels, by=""):
    """What a series of increases in five minutes comes to within the time that is shown."""
    return f"sum{f' by ({by})' if by else ''} (sum_over_time({record}{{{labels}}}{RANGE}))"


def limits_of(metric, by):
    """The nearest of all gateways to its bound, of the selected teams and keys, and of what belongs to neither."""
    return (
        f'max by ({by}) ({metric}{{holder="team", name=~"$team"}} or {metric}{{holder="key", name=~"$key"}}'
        f' or {metric}{{holder!~"team|key"}})'
    )


# === Panels ===


def target(expression, legend="", instant=False, table=False):
    return {
        "datasource": DATASOURCE,
        "editorMode": "code",
        "expr": expression,
        "format": "table" if table else "time_series",
        "instant": instant,
        "legendFormat": legend or "__auto",
        "range": not instant,
    }


def thresholds(*steps):
    """Steps of (from, colour), the first from anywhere."""
    return {"mode": "absolute", "steps": [{"color": colour, "value": value} for value, colour in steps]}


PLAIN = thresholds((None, CALM))
ANY_IS_BAD = thresholds((None, GOOD), (1, BAD))
FILLS = thresholds((None, GOOD), (0.7, FAIR), (0.8, POOR), (0.95, BAD))


def panel(kind, title, description, targets, options, unit, empty, steps, decimals=None, low=None, high=None, custom=None):
    defaults = {"unit": unit, "thresholds": steps, "noValue": empty, "mappings": []}
    for name, value in (("decimals", decimals), ("min", low), ("max", high), ("custom", custom)):
        if value is not None:
            defaults[name] = value
    for index, each in enumerate(targets):
        each["refId"] = chr(ord("A") + index)
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": DATASOURCE,
        "targets": targets,
        "options": options,
        "fieldConfig": {"defaults": defaults, "overrides": []},
    }


def mapped(it, mapping):
    """Shows words in the place of values: {value: (text, colour)}."""
    options = {
        str(value): {"text": text, "color": colour, "index": index}
        for index, (value, (text, colour)) in enumerate(mapping.items())
    }
    it["fieldConfig"]["defaults"]["mappings"] = [{"type": "value", "options": options}]
    return it


def reduced():
    return {"calcs": ["lastNotNull"], "fields": "", "values": False}


def stat(title, description, expression, unit="short", steps=PLAIN, empty="–", decimals=None, legend="", spark=True):
    """One number, large, with its course behind it."""
    options = {
        "colorMode": "value",
        "graphMode": "area" if spark else "none",
        "justifyMode": "auto",
        "orientation": "auto",
        "percentChangeColorMode": "standard",
        "reduceOptions": reduced(),
        "showPercentChange": False,
        "textMode": "auto",
        "wideLayout": True,
    }
    it = panel("stat", title, description, [target(expression, legend, instant=not spark)], options, unit, empty, steps, decimals)
    it["fieldConfig"]["defaults"]["color"] = {"mode": "thresholds"}
    return it


def series(
    title, description, targets, unit="short", empty="Nothing in this time", low=0, high=None, stack=False, bars=False,
    calcs=("lastNotNull", "max"), steps=None, interval=None, decimals=None,
):
    """Lines over time, or stacked areas, or bars. `targets` are pairs of (expression, legend)."""
    custom = {
        "axisBorderShow": False,
        "axisSoftMin": 0,
        "drawStyle": "bars" if bars else "line",
        "fillOpacity": 60 if bars else 25 if stack else 8,
        "gradientMode": "none",
        "lineInterpolation": "linear",
        "lineWidth": 1,
        "pointSize": 4,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"group": "A", "mode": "normal" if stack else "none"},
        "thresholdsStyle": {"mode": "dashed" if steps else "off"},
    }
    options = {
        "legend": {"calcs": list(calcs), "displayMode": "table", "placement": "bottom", "showLegend": True},
        "tooltip": {"hideZeros": True, "mode": "multi", "sort": "desc"},
    }
    targets = [target(expression, legend) for expression, legend in targets]
    it = panel("timeseries", title, description, targets, options, unit, empty, steps or PLAIN, decimals, low, high, custom)
    it["fieldConfig"]["defaults"]["color"] = {"mode": "palette-classic-by-name"}
    it["fieldConfig"]["overrides"] = [
        {
            "matcher": {"id": "byName", "options": name},
            "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": colour}}],
        }
        for name, colour in COLOURS.items()
        if any(legend == name or legend.startswith("{{") and name in named(expression) for expression, legend in pairs(targets))
    ]
    if interval:
        it["interval"] = interval
    return it


def pairs(targets):
    return [(each["expr"], each["legendFormat"]) for each in targets]


def named(expression):
    """The values that a panel's legend can take, where it is one label of a closed set."""
    closed = {
        "(type)": ("input", "cached_input", "cache_write", "output", "reasoning", "input_audio", "output_audio"),
        "(result)": ("hit", "joined", "miss", "bypass"),
        "(kind)": ("retry", "fallback", "hedge"),
        "(phase)": ("prefill", "decode"),
        "(state)": ("in_use", "ejected", "limited", "refused"),
    }
    return [value for label, values in closed.items() if f"by {label}" in expression for value in values]


def bars(title, description, expression, legend, unit="percentunit", steps=FILLS, empty="–", high=1):
    """One bar for each series, as it stands now."""
    options = {
        "displayMode": "gradient",
        "legend": {"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": False},
        "maxVizHeight": 40,
        "minVizHeight": 16,
        "minVizWidth": 8,
        "namePlacement": "auto",
        "orientation": "horizontal",
        "reduceOptions": reduced(),
        "showUnfilled": True,
        "sizing": "auto",
        "valueMode": "color",
    }
    it = panel("bargauge", title, description, [target(expression, legend, instant=True)], options, unit, empty, steps, None, 0, high)
    it["fieldConfig"]["defaults"]["color"] = {"mode": "thresholds"}
    return it


def states(title, description, expression, legend, mapping, empty="–"):
    """A band for each series, coloured by its state."""
    options = {
        "alignValue": "left",
        "legend": {"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": False},
        "mergeValues": True,
        "rowHeight": 0.8,
        "showValue": "never",
        "tooltip": {"hideZeros": False, "mode": "single", "sort": "none"},
    }
    custom = {"fillOpacity": 70, "lineWidth": 0}
    it = panel("state-timeline", title, description, [target(expression, legend)], options, "short", empty, PLAIN, custom=custom)
    it["fieldConfig"]["defaults"]["color"] = {"mode": "thresholds"}
    return mapped(it, mapping)


def table(title, description, columns, labels, sort, empty="–"):
    """A row for each set of labels. `columns` are triples of (name, expression, unit)."""
    targets = [target(expression, instant=True, table=True) for _, expression, _ in columns]
    options = {
        "cellHeight": "sm",
        "frameIndex": 0,
        "showHeader": True,
        "sortBy": [{"desc": True, "displayName": sort}],
    }
    custom = {"align": "auto", "cellOptions": {"type": "auto"}, "inspect": False}
    it = panel("table", title, description, targets, options, "short", empty, PLAIN, custom=custom)
    values = ["Value"] if len(columns) == 1 else [f"Value #{chr(ord('A') + index)}" for index in range(len(columns))]
    names = {**dict(zip(values, (name for name, _, _ in columns))), **{label: label.capitalize() for label in labels}}
    order = {name: index for index, name in enumerate([*labels, *values])}
    it["transformations"] = [
        {"id": "merge", "options": {}},
        {"id": "organize", "options": {"excludeByName": {"Time": True}, "indexByName": order, "renameByName": names}},
    ]
    it["fieldConfig"]["overrides"] = [
        {"matcher": {"id": "byName", "options": name}, "properties": [{"id": "unit", "value": unit}]} for name, _, unit in columns
    ]
    return it


# === Dashboards ===


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
        panels.append({"type": "row", "id": number, "title": heading, "collapsed": False, "gridPos": grid, "panels": []})
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
                variable("upstream", "Upstream", f"label_values({upstreams}, upstream)", upstreams == "weir_upstream_ready"),
            ]
        },
        "panels": panels,
    }


# === What several dashboards show ===


def upstream_health():
    return states(
        "Upstreams",
        "Whether each upstream can be used: red where all its endpoints are ejected, or the local model is not there, at one "
        "gateway at least.",
        f"min by (upstream) ((weir_upstream_ready{{{UPSTREAM}}} unless on (job, instance, upstream) "
        f'weir_upstream_endpoints{{state="in_use"}} == 0) or 0 * weir_upstream_ready{{{UPSTREAM}}})', "{{upstream}}",
        {0: ("down", BAD), 1: ("ready", GOOD)}, "No upstream is configured",
    )  # fmt: skip


def outcomes():
    parts = {"answered": 'cause=""', **{who: f'cause=~"{who}_.*"' for who in ("client", "policy", "upstream", "gateway")}}
    return series(
        "Requests by who is to blame",
        "All requests: answered; refused for the client's own mistake (a wrong key, a bad body, or it left); refused by policy "
        "(a limit, a budget, an allow-list); failed upstream; failed in the gateway. Only the last two are failures.",
        [(or_zero(rate("weir_requests_total", f"{REQUEST}, {cause}")), who) for who, cause in parts.items()],
        "reqps", stack=True,
    )  # fmt: skip


def first_token(labels=SERVED):
    return [
        (quantile(q, "weir_time_to_first_token_seconds", labels), f"p{round(q * 100)}") for q in (0.5, 0.95, 0.99)
    ]


def budgets():
    return bars(
        "Budgets used",
        "How much of each budget of the selected teams and keys is used up, in money or tokens. At 100 % calls are refused "
        "with 429 until the period ends.",
        limits_of("weir_budget_used_ratio", "holder, name, unit, per"), "{{holder}} {{name}}, {{unit}} per {{per}}",
        steps=thresholds((None, GOOD), (0.8, FAIR), (0.9, POOR), (1, BAD)), empty="No budget is configured",
    )  # fmt: skip


# === The five dashboards ===


def overview():
    requests = rate("weir_requests_total", REQUEST)
    failed = rate("weir_requests_total", f"{REQUEST}, {FAILED}")
    return dashboard(
        "weir-overview", "Overview", "Is everything well, and how much is going on? For a screen on the wall.",
        [
            ("Now", 4, [
                (3, stat("Requests", "Requests a second, of all kinds and endings.", or_zero(requests), "reqps")),
                (3, stat(
                    "Not failed", "The share of requests that did not fail by an upstream's or the gateway's fault. What the "
                    "client did wrong and what a limit refused is no failure. The objective is 99.5 %.",
                    f"1 - {share(failed, requests)}", "percentunit",
                    thresholds((None, BAD), (0.98, POOR), (0.995, GOOD)), decimals=2,
                )),
                (3, stat(
                    "First token, p95", "95 of 100 streams have their first token within this time.",
                    quantile(0.95, "weir_time_to_first_token_seconds", SERVED), "s",
                    thresholds((None, GOOD), (2, FAIR), (5, BAD)), "no streams",
                )),
                (3, stat("Tokens", "Tokens a second, of all classes, in and out.", or_zero(rate("weir_tokens_total", REQUEST)), "short", decimals=0)),
                (3, stat(
                    "Spend, 24 h", "What the last 24 hours cost, by the price tables. The ledger is the bill.",
                    or_zero(f"sum (increase(weir_cost_nanodollars_total{{{REQUEST}}}[24h])) / 1e9"), "currencyUSD", decimals=2, spark=False,
                )),
                (3, stat("In flight", "Requests under way now, at all gateways.", or_zero("sum (weir_requests_in_flight)"), decimals=0)),
                (3, stat(
                    "Upstreams down", "Upstreams that no gateway can use.",
                    or_zero(
                        f'count (max by (upstream) (weir_upstream_endpoints{{{UPSTREAM}, state="in_use"}}) == 0 '
                        f"or max by (upstream) (weir_upstream_ready{{{UPSTREAM}}}) == 0)"
                    ), steps=ANY_IS_BAD, decimals=0,
                )),
                (3, stat(
                    "Alerts", "Alerts of Weir that are firing. deploy/RUNBOOK.md says what to do about each.",
                    or_zero('count (ALERTS{alertname=~"Weir.+", alertstate="firing"})'), steps=ANY_IS_BAD, decimals=0,
                )),
            ]),
            ("Traffic and how long it waits", 9, [
                (12, outcomes()),
                (12, series(
                    "How long clients wait", "The time to a stream's first token, and to the end of an answer, streamed or not: "
                    "the median, and what 95 of 100 stay within.",
                    [
                        (quantile(q, metric, SERVED), f"{what} p{round(q * 100)}")
                        for metric, what in (("weir_time_to_first_token_seconds", "first token"), ("weir_request_duration_seconds", "whole answer"))
                        for q in (0.5, 0.95)
                    ], "s", "No requests in this time",
                )),
            ]),
            ("What is used", 9, [
                (12, series(
                    "Tokens by class", "Tokens a second. The classes do not overlap: input is what was neither read from nor "
                    "written to the upstream's prompt cache, output what was not reasoning.",
                    [(rate("weir_tokens_total", REQUEST, "type"), "{{type}}")], "short", "No tokens in this time", stack=True,
                )),
                (12, series(
                    "Spend by team", "US dollars an hour, by the price tables.",
                    [(f"{rate('weir_cost_nanodollars_total', REQUEST, 'team')} * 3600 / 1e9", "{{team}}")], "currencyUSD",
                    "Nothing was spent in this time", stack=True,
                )),
            ]),
            ("Where it goes", 9, [
                (12, upstream_health()),
                (12, series(
                    "Requests by model", "Requests a second, by the configured model or pattern that was asked for.",
                    [(rate("weir_requests_total", REQUEST, "model"), "{{model}}")], "reqps", "No requests in this time", stack=True,
                )),
            ]),
        ],
    )  # fmt: skip


def usage():
    cost = "job_team_key_model_upstream:weir_cost_dollars:increase5m"
    tokens = "job_team_key_model_upstream_type:weir_tokens:increase5m"
    requests = "job_team_key_model_upstream:weir_requests:increase5m"
    saved = "job_team_key_model:weir_cache_saved_dollars:increase5m"
    inputs = f'{REQUEST}, type=~"input|cached_input|cache_write|input_audio"'
    outputs = f'{REQUEST}, type=~"output|reasoning|output_audio"'
    recorded = " Needs the recording rules of deploy/prometheus."

    def per_interval(record, by, labels=REQUEST):
        return f"sum by ({by}) (sum_over_time({record}{{{labels}}}[$__interval]))"

    def who(by):
        return [
            ("Requests", total(requests, REQUEST, by), "short"),
            ("Input", total(tokens, inputs, by), "short"),
            ("Output", total(tokens, outputs, by), "short"),
            ("Spend", total(cost, REQUEST, by), "currencyUSD"),
        ]

    return dashboard(
        "weir-usage", "Usage and cost", "Who used what, and what it cost. For whoever answers for the money.",
        [
            ("In the time shown", 4, [
                (4, stat("Spend", "By the price tables; the ledger (`weir usage`) is the bill." + recorded, or_zero(total(cost, REQUEST)), "currencyUSD", decimals=2, spark=False)),
                (4, stat("Requests", "All that the selected keys sent, refused ones too." + recorded, or_zero(total(requests, REQUEST)), decimals=0, spark=False)),
                (4, stat("Input tokens", "Prompts, cached or not." + recorded, or_zero(total(tokens, inputs)), spark=False)),
                (4, stat("Output tokens", "What was generated, reasoning too." + recorded, or_zero(total(tokens, outputs)), spark=False)),
                (4, stat("Saved by the cache", "What answers from the cache would have cost." + recorded, or_zero(total(saved, SAVED)), "currencyUSD", thresholds((None, GOOD)), decimals=2, spark=False)),
                (4, stat(
                    "Without a price", "Requests that used tokens of a model that no price table knows: their cost is missing, "
                    "and budgets in money do not see them. Add the model to `[ledger] prices`.",
                    or_zero(f"sum (increase(weir_unpriced_requests_total{{{SAVED}}}{RANGE}))"), steps=ANY_IS_BAD, decimals=0, spark=False,
                )),
            ]),
            ("Money", 9, [
                (12, series(
                    "Spend by team", "US dollars in each step of the graph." + recorded, [(per_interval(cost, "team"), "{{team}}")], "currencyUSD",
                    "Nothing was spent in this time", stack=True, bars=True, calcs=("sum", "max"), interval="1h",
                )),
                (12, series(
                    "Spend by model", "US dollars in each step of the graph." + recorded, [(per_interval(cost, "model"), "{{model}}")], "currencyUSD",
                    "Nothing was spent in this time", stack=True, bars=True, calcs=("sum", "max"), interval="1h",
                )),
                (14, table("Teams and keys", "Requests, tokens and money of each key in the time shown." + recorded, who("team, key"), ["team", "key"], "Spend", "No requests in this time")),
                (10, table("Models", "The same for each model and who served it." + recorded, who("model, upstream"), ["model", "upstream"], "Spend", "No requests in this time")),
            ]),
            ("Budgets", 9, [
                (10, budgets()),
                (14, table(
                    "Budgets in money and tokens", "What each budget allows, and what of it is used, as the gateways hold it now.",
                    [
                        ("Share", limits_of("weir_budget_used_ratio", "holder, name, per"), "percentunit"),
                        ("Used $", limits_of("weir_budget_used_dollars", "holder, name, per"), "currencyUSD"),
                        ("Of $", limits_of("weir_budget_limit_dollars", "holder, name, per"), "currencyUSD"),
                        ("Used tokens", limits_of("weir_budget_used_tokens", "holder, name, per"), "short"),
                        ("Of tokens", limits_of("weir_budget_limit_tokens", "holder, name, per"), "short"),
                    ],
                    ["holder", "name", "per"], "Share", "No budget is configured",
                )),
            ]),
            ("Tokens", 9, [
                (12, series(
                    "Tokens by class", "Tokens in each step of the graph, by class; the classes do not overlap." + recorded,
                    [(per_interval(tokens, "type"), "{{type}}")], "short", "No tokens in this time",
                    stack=True, bars=True, calcs=("sum", "max"), interval="1h",
                )),
                (6, series(
                    "Size of prompts", "Tokens of a request's whole prompt, cached or not.",
                    [(quantile(q, "weir_request_tokens", f'type="input", {MODEL}'), f"p{round(q * 100)}") for q in (0.5, 0.95)],
                    "short", "No requests in this time",
                )),
                (6, series(
                    "Size of answers", "Tokens generated for a request, reasoning too.",
                    [(quantile(q, "weir_request_tokens", f'type="output", {MODEL}'), f"p{round(q * 100)}") for q in (0.5, 0.95)],
                    "short", "No requests in this time",
                )),
            ]),
        ],
        since="now-7d", refresh="5m",
    )  # fmt: skip


def upstreams():
    attempts = rate("weir_upstream_attempts_total", UPSTREAM, "upstream")
    month = "sum (sum_over_time(job:weir_requests_failed:rate5m[30d]))"
    month_all = "sum (sum_over_time(job:weir_requests:rate5m[30d]))"
    of_budget = "/ on () (weir:error_budget:ratio > 0)"
    recorded = " Needs the recording rules of deploy/prometheus; of all requests, whatever is selected."
    return dashboard(
        "weir-upstreams", "Upstreams and reliability", "What fails, where, and since when? For whoever is on call.",
        [
            ("Error budget", 8, [
                (4, stat(
                    "Budget left, 30 days", "Of the failures that the objective allows in 30 days, the share that is left. Below 0: "
                    "overdrawn." + recorded,
                    f"1 - ({share(month, month_all)}) {of_budget}", "percentunit",
                    thresholds((None, BAD), (0, POOR), (0.25, FAIR), (0.5, GOOD)), "Rules are not loaded", decimals=0, spark=False,
                )),
                (8, series(
                    "Burn rate", "How many times faster than it may the error budget is used up. At 1 it lasts just 30 days; at "
                    "14.4 for an hour somebody is paged." + recorded,
                    [(f"max (job:weir_requests_failed:ratio{window}) {of_budget}", window) for window in ("5m", "1h", "6h", "1d")],
                    "short", "No requests in this time", steps=thresholds((None, GOOD), (1, FAIR), (14.4, BAD)),
                )),
                (12, outcomes()),
            ]),
            ("Failures", 9, [
                (8, series(
                    "Failures by cause", "Requests a second that failed by an upstream's or the gateway's fault. RUNBOOK.md and the list "
                    "of metrics say what the causes mean.",
                    [(rate("weir_requests_total", f"{REQUEST}, {FAILED}", "cause"), "{{cause}}")], "reqps", "No failures in this time", stack=True,
                )),
                (8, series(
                    "Failed attempts by upstream", "The share of tries at each upstream that failed there or on the way. Retries may "
                    "have hidden them from clients.",
                    [(share_by(rate("weir_upstream_attempts_total", f'{UPSTREAM}, result=~"upstream_.*|gateway_.*"', "upstream"), attempts), "{{upstream}}")],
                    "percentunit", "No upstream is configured", high=1,
                )),
                (8, series(
                    "Refusals by cause", "Requests a second that were refused for the client's mistake or by policy: no failures.",
                    [(rate("weir_requests_total", f'{REQUEST}, cause=~"client_.*|policy_.*"', "cause"), "{{cause}}")], "reqps",
                    "No refusals in this time", stack=True,
                )),
            ]),
            ("Upstreams", 8, [
                (8, upstream_health()),
                (8, series(
                    "Until the answer begins, p95", "95 of 100 attempts have the head of their answer within this time; one that is not "
                    "streamed, the whole answer.",
                    [(quantile(0.95, "weir_upstream_duration_seconds", SERVED, "upstream"), "{{upstream}}")], "s", "No attempts in this time",
                )),
                (8, series(
                    "Attempts", "Tries a second at each upstream, retries and hedges too.", [(attempts, "{{upstream}}")], "reqps",
                    "No upstream is configured", stack=True,
                )),
                (8, series(
                    "Endpoints and credentials out of use", "Endpoints that are ejected, and credentials that are put aside because the "
                    "upstream refused or limits them.",
                    [
                        (f'sum by (upstream) (weir_upstream_endpoints{{{UPSTREAM}, state="ejected"}})', "{{upstream}}: ejected"),
                        (f'max by (upstream, state) (weir_upstream_credentials{{{UPSTREAM}, state!="in_use"}})', "{{upstream}}: {{state}} credentials"),
                    ], empty="No remote upstream is configured", decimals=0,
                )),
                (8, series(
                    "In flight", "Calls under way at each upstream, at all gateways, and what `max_concurrent` allows where it is set.",
                    [
                        (f"sum by (upstream) (weir_upstream_in_flight{{{UPSTREAM}}})", "{{upstream}}"),
                        (f"sum by (upstream) (weir_upstream_in_flight_limit{{{UPSTREAM}}})", "{{upstream}}: limit"),
                    ], empty="No upstream is configured", decimals=0,
                )),
                (8, series(
                    "Waiting", "Calls that wait for a place at an upstream. What finds the queue full is refused, or goes to the next target.",
                    [(f"sum by (upstream) (weir_upstream_queue_length{{{UPSTREAM}}})", "{{upstream}}")],
                    empty="No upstream is configured", decimals=0,
                )),
            ]),
            ("Saved by trying again", 8, [
                (8, series(
                    "Retries, fallbacks, hedges", "Tries a second after a request's first: at the same upstream, at another one, or beside a slow one.",
                    [(rate("weir_retries_total", SERVED, "kind"), "{{kind}}")], "reqps", "Nothing was tried twice in this time", stack=True,
                )),
                (8, series(
                    "Why", "How the try before it had failed.",
                    [(rate("weir_retries_total", f'{SERVED}, kind!="hedge"', "cause"), "{{cause}}")], "reqps", "Nothing was tried twice in this time", stack=True,
                )),
                (8, series(
                    "At its end", "Answered by the local model in the place of remote ones; retries left undone because the share of "
                    "them in an upstream's traffic was used up.",
                    [
                        (or_zero(rate("weir_degraded_total", MODEL)), "degraded"),
                        (or_zero(rate("weir_retry_budget_exhausted_total", UPSTREAM)), "no retry left"),
                    ], "reqps",
                )),
            ]),
            ("How long it takes", 8, [
                (8, series(
                    "First token", "From the request's arrival to the first content of its stream.", first_token(), "s", "No streams in this time",
                    steps=thresholds((None, GOOD), (5, BAD)),
                )),
                (8, series(
                    "Each further token", "The mean time between the tokens of a stream after its first.",
                    [(quantile(q, "weir_time_per_output_token_seconds", SERVED), f"p{round(q * 100)}") for q in (0.5, 0.95, 0.99)], "s", "No streams in this time",
                )),
                (8, series(
                    "Our own overhead", "What the gateway itself adds until the head of an answer: reading, limits, ledger, choosing.",
                    [(quantile(q, "weir_request_overhead_seconds", ""), f"p{round(q * 100)}") for q in (0.5, 0.95, 0.99)], "s", "No requests in this time",
                )),
            ]),
            ("The gateways", 8, [
                (6, series("CPU", "Cores in use by each gateway.", [("sum by (instance) (rate(process_cpu_seconds_total{job=~\"weir.*\"}[$__rate_interval]))", "{{instance}}")], "short", "Not told on this system")),
                (6, series("Memory", "Resident memory of each gateway.", [("sum by (instance) (process_resident_memory_bytes{job=~\"weir.*\"})", "{{instance}}")], "bytes", "Not told on this system")),
                (6, series(
                    "Connections and files", "Open connections of the data listener and open files, as a share of what is allowed.",
                    [
                        ('weir_connections{listener="data"} / (weir_connections_limit{listener="data"} > 0)', "{{instance}}: connections"),
                        ('process_open_fds{job=~"weir.*"} / (process_max_fds > 0)', "{{instance}}: files"),
                    ], "percentunit", "–", high=1,
                )),
                (6, table(
                    "Running", "Version, whether its last configuration was taken, and the days that its certificate is still good.",
                    [
                        ("Started", "max by (instance, version) (weir_start_time_seconds * on (instance, job) group_left (version) weir_build_info) * 1000", "dateTimeFromNow"),
                        ("Configuration taken", "min by (instance, version) (weir_config_last_reload_successful * on (instance, job) group_left (version) weir_build_info)", "bool_yes_no"),
                        ("Certificate ends in", "min by (instance, version) ((weir_tls_certificate_expiry_timestamp_seconds - time()) * on (instance, job) group_left (version) weir_build_info)", "s"),
                    ], ["instance", "version"], "Started",
                )),
            ]),
        ],
    )  # fmt: skip


def limits():
    hits = f'sum (rate(weir_cache_requests_total{{result=~"hit|joined"}}{RATE}))'
    asked = f'sum (rate(weir_cache_requests_total{{result!="bypass"}}{RATE}))'
    used = limits_of("weir_limit_used_ratio", "holder, name, dimension, models, mode")
    away = "No Redis is configured"
    return dashboard(
        "weir-limits", "Limits and cache", "How near is everybody to what they may, and what does the cache save? And how are Redis and the ledger?",
        [
            ("Now", 4, [
                (4, stat("Refused by limits", "Our own 429s a second, by rate and concurrency limits.", or_zero(rate("weir_limit_refusals_total", 'mode="refuse"')), "reqps", thresholds((None, GOOD), (0.0001, FAIR)))),
                (4, stat("Refused by budgets", "Our own 429s a second, because a budget is spent.", or_zero(rate("weir_budget_refusals_total", "")), "reqps", thresholds((None, GOOD), (0.0001, FAIR)))),
                (4, stat("Answered from the cache", "Hits and joined calls, of the calls that the cache may answer.", share(hits, asked), "percentunit", decimals=1)),
                (4, stat("Saved, 24 h", "What answers from the cache would have cost.", or_zero(f"sum (increase(weir_cache_saved_nanodollars_total{{{SAVED}}}[24h])) / 1e9"), "currencyUSD", thresholds((None, GOOD)), decimals=2, spark=False)),
                (4, mapped(stat("Redis", "Whether every gateway can reach Redis. While it is away limits are in outage mode.", "min (weir_redis_up)", empty="not used", spark=False), {0: ("away", BAD), 1: ("up", GOOD)})),
                (4, mapped(stat("Ledger", "Whether every gateway can write its ledger.", "max (weir_ledger_failing)", empty="no gateway", spark=False), {0: ("written", GOOD), 1: ("failing", BAD)})),
            ]),
            ("Limits", 9, [
                (8, bars(
                    "Nearest limits", "The 15 limits that are used most, of the selected teams and keys, of routes and the gateway: of what may "
                    "come at once, the share that is taken. At 100 % calls are refused with 429.",
                    f"topk(15, {used})", "{{holder}} {{name}} {{dimension}} {{models}}", empty="No limit is configured",
                )),
                (8, series(
                    "Limits over time", "The same for all limits that were ever used by a fifth or more.",
                    [(f"{used} >= 0.2", "{{holder}} {{name}} {{dimension}} {{models}}")], "percentunit", "No limit was used by a fifth in this time", high=1,
                )),
                (8, series(
                    "Refusals", "429s a second by the limit that refused; `shadow` ones were only counted, and let in.",
                    [(f'sum by (holder, name, dimension, mode) (rate(weir_limit_refusals_total{{holder="team", name=~"$team"}}{RATE}) or '
                      f'rate(weir_limit_refusals_total{{holder="key", name=~"$key"}}{RATE}) or rate(weir_limit_refusals_total{{holder!~"team|key"}}{RATE}))',
                      "{{holder}} {{name}} {{dimension}} ({{mode}})")], "reqps", "Nothing was refused in this time", stack=True,
                )),
                (8, budgets()),
                (8, series(
                    "Budgets over time", "The share of each budget that is used.",
                    [(limits_of("weir_budget_used_ratio", "holder, name, unit, per"), "{{holder}} {{name}}, {{unit}} per {{per}}")], "percentunit",
                    "No budget is configured", steps=thresholds((None, GOOD), (0.9, POOR), (1, BAD)),
                )),
                (8, series(
                    "Refusals by budgets", "429s a second (insufficient_quota), by the budget that is spent.",
                    [("sum by (holder, name, unit, per) (rate(weir_budget_refusals_total[$__rate_interval]))", "{{holder}} {{name}}, {{unit}} per {{per}}")],
                    "reqps", "Nothing was refused in this time", stack=True,
                )),
            ]),
            ("Cache", 9, [
                (8, series(
                    "Calls by result", "hit: from the cache; joined: shared one that was under way; miss: went upstream; bypass: not for the cache.",
                    [("sum by (result) (rate(weir_cache_requests_total[$__rate_interval]))", "{{result}}")], "reqps", "The cache is off", stack=True,
                )),
                (8, series(
                    "Saved by team", "US dollars an hour that answers from the cache would have cost.",
                    [(f"{rate('weir_cache_saved_nanodollars_total', SAVED, 'team')} * 3600 / 1e9", "{{team}}")], "currencyUSD",
                    "Nothing was saved in this time", stack=True,
                )),
                (8, series(
                    "Saved tokens", "Tokens a second that answers from the cache would have used.",
                    [(rate("weir_cache_saved_tokens_total", SAVED, "type"), "{{type}}")], "short", "Nothing was saved in this time", stack=True,
                )),
                (8, series(
                    "Room", "What all answers in memory take, and what they may (`max_bytes`), of all gateways.",
                    [("sum (weir_cache_bytes)", "used"), ("sum (weir_cache_limit_bytes)", "limit")], "bytes", "No gateway",
                )),
                (8, series(
                    "Comings and goings", "Answers a second: stored, too large to be stored, and removed, by reason. Many that go for their size: `max_bytes` is small.",
                    [
                        ("sum (rate(weir_cache_stored_total[$__rate_interval]))", "stored"),
                        ("sum (rate(weir_cache_too_large_total[$__rate_interval]))", "too large"),
                        ("sum by (reason) (rate(weir_cache_removed_total[$__rate_interval]))", "removed: {{reason}}"),
                    ], "ops", "No gateway",
                )),
                (8, series("Entries", "Answers in memory, by gateway.", [("sum by (instance) (weir_cache_entries)", "{{instance}}")], empty="No gateway", decimals=0)),
            ]),
            ("Redis", 8, [
                (8, states("Reach", "Whether each gateway can reach Redis.", "min by (instance) (weir_redis_up)", "{{instance}}", {0: ("away", BAD), 1: ("up", GOOD)}, away)),
                (8, series(
                    "Calls", "Calls to Redis a second, those that failed, and requests that were decided without it or refused for want of it.",
                    [
                        ("sum (rate(weir_redis_calls_total[$__rate_interval]))", "calls"),
                        ("sum (rate(weir_redis_failures_total[$__rate_interval]))", "failed"),
                        ("sum (rate(weir_redis_alone_total[$__rate_interval]))", "decided alone"),
                        ("sum (rate(weir_redis_settlements_lost_total[$__rate_interval]))", "settlements lost"),
                    ], "ops", away,
                )),
                (8, series(
                    "Time of a call", "The mean time that a request waited for Redis.",
                    [("sum by (instance) (rate(weir_redis_call_seconds_total[$__rate_interval])) / clamp_min(sum by (instance) (rate(weir_redis_calls_total[$__rate_interval])), 1e-9)", "{{instance}}")],
                    "s", away,
                )),
            ]),
            ("Ledger", 8, [
                (8, series(
                    "Places", "Calls under way and rows not yet written, and how many there may be; at the limit calls are refused with 503.",
                    [
                        ("max (weir_ledger_open_rows)", "used"), ("max (weir_ledger_owed_rows)", "owed, for the file cannot be written"),
                        ("min (weir_ledger_open_rows_limit)", "limit"),
                    ], empty="No gateway", decimals=0,
                )),
                (8, series(
                    "Rows", "Rows a second that were written, and the commits that it took; failures; rows that were given up or left out.",
                    [
                        ("sum (rate(weir_ledger_rows_total[$__rate_interval]))", "rows"),
                        ("sum (rate(weir_ledger_commits_total[$__rate_interval]))", "commits"),
                        ("sum (rate(weir_ledger_failures_total[$__rate_interval]))", "failures"),
                        ("sum (rate(weir_ledger_given_up_rows_total[$__rate_interval]))", "given up"),
                        ("sum (rate(weir_ledger_left_out_rows_total[$__rate_interval]))", "left out (refusals of one key)"),
                    ], "ops", "No gateway",
                )),
                (8, series("Size", "The ledger's file, by gateway.", [("sum by (instance) (weir_ledger_bytes)", "{{instance}}")], "bytes", "No gateway")),
            ]),
        ],
    )  # fmt: skip


def local():
    none = "No local model is configured"
    tokens = rate("weir_engine_tokens_total", UPSTREAM, "phase")
    steps = rate("weir_engine_steps_total", UPSTREAM)
    return dashboard(
        "weir-local", "Local model", "How busy is the Transformer in this process, and how fast? Upstreams of kind local.",
        [
            ("Now", 4, [
                (4, mapped(stat("Model", "Whether each local model is loaded and runs.", f"min by (upstream) (weir_engine_ready{{{UPSTREAM}}})", legend="{{upstream}}", empty=none, spark=False), {0: ("not ready", BAD), 1: ("ready", GOOD)})),
                (4, stat("Running", "Sequences in the batch, of those that fit.", f"sum (weir_engine_running_sequences{{{UPSTREAM}}}) / clamp_min(sum (weir_engine_running_sequences_limit{{{UPSTREAM}}}), 1)", "percentunit", FILLS, none, 0)),
                (4, stat("KV cache", "Places promised to running sequences, of all.", f"sum (weir_engine_cache_tokens{{{UPSTREAM}}}) / clamp_min(sum (weir_engine_cache_tokens_limit{{{UPSTREAM}}}), 1)", "percentunit", FILLS, none, 0)),
                (4, stat("Queue", "Calls that wait for the model, of those that may. When it is full calls are refused with 503.", f"sum (weir_upstream_queue_length{{{UPSTREAM}}}) / clamp_min(sum (weir_upstream_queue_limit{{{UPSTREAM}}}), 1)", "percentunit", FILLS, none, 0)),
                (4, stat("Generated", "Tokens a second that the model generates.", rate("weir_engine_tokens_total", f'{UPSTREAM}, phase="decode"'), "short", empty=none, decimals=1)),
                (4, stat("Computing", "The share of the time that is spent in steps of the model.", f"clamp_max(avg (rate(weir_engine_step_seconds_total{{{UPSTREAM}}}{RATE})), 1)", "percentunit", thresholds((None, CALM), (0.9, POOR)), none, 0)),
            ]),
            ("Speed", 9, [
                (8, series("Tokens", "Tokens a second: prefill reads prompts, decode generates.", [(tokens, "{{phase}}")], "short", none)),
                (8, series("First token", "From a request's arrival to the first content of its stream.", first_token(f"{UPSTREAM}, {MODEL}"), "s", "No streams in this time")),
                (8, series(
                    "Each further token", "The mean time between the tokens of a stream after its first.",
                    [(quantile(q, "weir_time_per_output_token_seconds", SERVED), f"p{round(q * 100)}") for q in (0.5, 0.95, 0.99)], "s", "No streams in this time",
                )),
            ]),
            ("Room", 9, [
                (8, series("Sequences", "Sequences in the batch, and how many fit.", [(f"sum (weir_engine_running_sequences{{{UPSTREAM}}})", "used"), (f"sum (weir_engine_running_sequences_limit{{{UPSTREAM}}})", "limit")], empty=none, decimals=0)),
                (8, series("KV cache", "Places of the KV cache that are promised to running sequences, and all there are.", [(f"sum (weir_engine_cache_tokens{{{UPSTREAM}}})", "used"), (f"sum (weir_engine_cache_tokens_limit{{{UPSTREAM}}})", "limit")], empty=none, decimals=0)),
                (8, series(
                    "Waiting", "Calls that wait for a place in the batch, and how many may.",
                    [(f"sum (weir_upstream_queue_length{{{UPSTREAM}}})", "used"), (f"sum (weir_upstream_queue_limit{{{UPSTREAM}}})", "limit")], empty=none, decimals=0,
                )),
            ]),
            ("Steps", 9, [
                (8, series("Time of a step", "The mean time of one step of the whole batch.", [(f"{rate('weir_engine_step_seconds_total', UPSTREAM)} / clamp_min({steps}, 1e-9)", "mean")], "s", none)),
                (8, series("Tokens in a step", "How many tokens a step works on: the more, the better the batch pays.", [(f"{rate('weir_engine_tokens_total', UPSTREAM)} / clamp_min({steps}, 1e-9)", "mean")], "short", none)),
                (8, series("Who uses it", "Requests a second that the model served, by key.", [(rate("weir_requests_total", REQUEST, "team, key"), "{{team}} {{key}}")], "reqps", "No requests in this time", stack=True)),
            ]),
        ],
        upstreams="weir_engine_ready",
    )  # fmt: skip


DASHBOARDS = {"overview": overview, "usage": usage, "upstreams": upstreams, "limits": limits, "local": local}


def main():
    check = sys.argv[1:] == ["--check"]
    if sys.argv[1:] and not check:
        sys.exit(__doc__)
    stale = []
    for name, build in DASHBOARDS.items():
        path, text = FOLDER / f"{name}.json", json.dumps(build(), indent=2, ensure_ascii=False) + "\n"
        if check and (not path.exists() or path.read_text() != text):
            stale.append(path.name)
        elif not check:
            path.write_text(text)
    if stale:
        sys.exit(f"not as build.py writes them: {', '.join(stale)}; run dashboards/build.py")


if __name__ == "__main__":
    main()
