"""Panels of one look: colours by what a thing means, legends as small tables, an explanation on each."""

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}

# One colour for one meaning, on all dashboards.
GOOD, FAIR, POOR, BAD, CALM, OTHER = "green", "yellow", "orange", "red", "blue", "purple"
COLOURS = {
    "answered": GOOD,
    "client": CALM,
    "policy": FAIR,
    "upstream": POOR,
    "gateway": BAD,
    "p50": GOOD,
    "p95": POOR,
    "p99": BAD,
    "first token p50": GOOD,
    "first token p95": POOR,
    "whole answer p50": CALM,
    "whole answer p95": OTHER,
    "input": "blue",
    "cached_input": "light-blue",
    "cache_write": "super-light-blue",
    "output": "orange",
    "reasoning": "light-orange",
    "input_audio": "purple",
    "output_audio": "light-purple",
    "hit": GOOD,
    "joined": "light-green",
    "miss": CALM,
    "bypass": "text",
    "used": CALM,
    "limit": BAD,
    "retry": FAIR,
    "fallback": POOR,
    "hedge": OTHER,
    "prefill": CALM,
    "decode": POOR,
}


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


def panel(
    kind, title, description, targets, options, unit, empty, steps, decimals=None, low=None, high=None, custom=None
):
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
    it = panel(
        "stat",
        title,
        description,
        [target(expression, legend, instant=not spark)],
        options,
        unit,
        empty,
        steps,
        decimals,
    )
    it["fieldConfig"]["defaults"]["color"] = {"mode": "thresholds"}
    return it


def series(
    title,
    description,
    targets,
    unit="short",
    empty="Nothing in this time",
    low=0,
    high=None,
    stack=False,
    bars=False,
    calcs=("lastNotNull", "max"),
    steps=None,
    interval=None,
    decimals=None,
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
    it = panel(
        "timeseries", title, description, targets, options, unit, empty, steps or PLAIN, decimals, low, high, custom
    )
    it["fieldConfig"]["defaults"]["color"] = {"mode": "palette-classic-by-name"}
    it["fieldConfig"]["overrides"] = [
        {
            "matcher": {"id": "byName", "options": name},
            "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": colour}}],
        }
        for name, colour in COLOURS.items()
        if any(
            legend == name or legend.startswith("{{") and name in named(expression)
            for expression, legend in pairs(targets)
        )
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
    it = panel(
        "bargauge",
        title,
        description,
        [target(expression, legend, instant=True)],
        options,
        unit,
        empty,
        steps,
        None,
        0,
        high,
    )
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
    it = panel(
        "state-timeline",
        title,
        description,
        [target(expression, legend)],
        options,
        "short",
        empty,
        PLAIN,
        custom=custom,
    )
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
        {"matcher": {"id": "byName", "options": name}, "properties": [{"id": "unit", "value": unit}]}
        for name, _, unit in columns
    ]
    return it
