"""What dashboards ask Prometheus, so that there is an answer also when nothing happens."""

# What the variables select, by the labels that a metric has.
REQUEST = 'team=~"$team", key=~"$key", model=~"$model", upstream=~"$upstream"'
SAVED = 'team=~"$team", key=~"$key", model=~"$model"'
SERVED = 'model=~"$model", upstream=~"$upstream"'
MODEL = 'model=~"$model"'
UPSTREAM = 'upstream=~"$upstream"'
RATE = "[$__rate_interval]"
RANGE = "[$__range]"

FAILED = 'cause=~"upstream_.*|gateway_.*"'


def rate(metric, labels, by=""):
    """The rate of a counter, summed up by some labels."""
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{{{labels}}}{RATE}))"


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
