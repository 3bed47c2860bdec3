"""That the tools of the other tests see what they should, and fail where they should."""

import pytest
from promql import alerts, escaped, hurried, level, substituted, undeclared

DECLARED = {
    "weir_requests_total": {"team", "cause"},
    "weir_wait_seconds": {"model"},
    "job_team:weir_cost:sum": {"job", "team"},
}


@pytest.mark.parametrize(
    "expression",
    [
        'sum by (team, job) (rate(weir_requests_total{cause=~"a|{b}"}[5m])) or vector(0)',
        "histogram_quantile(0.9, sum by (model, le) (rate(weir_wait_seconds_bucket[5m])))",
        "job_team:weir_cost:sum{team=\"a\"} and on (job) weir_wait_seconds_count",
    ],
)  # fmt: skip
def test_what_is_declared_passes(expression):
    assert not undeclared(expression, DECLARED)


@pytest.mark.parametrize(
    "expression, slip",
    [
        ("rate(weir_request_total[5m])", "no metric weir_request_total"),
        ("process_cpu_total", "no metric process_cpu_total"),
        ('weir_requests_total{key="a"}', "weir_requests_total has no label key"),
        ('weir_requests_total{cause="", model!~"b"}', "weir_requests_total has no label model"),
        ("sum by (colour) (weir_requests_total)", "nothing in it has a label colour"),
        ("sum by (le) (weir_wait_seconds_count)", "nothing in it has a label le"),
        ('job_team:weir_cost:sum{key="a"}', "job_team:weir_cost:sum has no label key"),
        ("job_team:weir_costs:sum", "no metric job_team:weir_costs:sum"),
    ],
)
def test_what_is_not_declared_is_found(expression, slip):
    assert slip in undeclared(expression, DECLARED)


def test_values_are_escaped_as_grafana_escapes_them():
    assert substituted('a{b=~"$model"}', {"model": escaped("gpt-4.1*")}) == r'a{b=~"gpt-4\\.1\\*"}'
    with pytest.raises(AssertionError):
        substituted("a[$__nothing]", {})


def test_rules_in_a_hurry_have_short_windows_and_no_waits():
    text = (
        "  - name: a\n    interval: 5m\n    rules:\n      - expr: rate(a[5m]) > b[6h] - 14 * 86400\n        for: 15m\n"
    )
    assert (
        hurried(text)
        == "  - name: a\n    interval: 10s\n    rules:\n      - expr: rate(a[10s]) > b[720s] - 14 * 86400\n        for: 1s\n"
    )


def test_a_recorded_series_says_its_labels_by_its_name():
    assert level("job_team_key:weir_cost:sum") == {"job", "team", "key"} and level("weir:budget:ratio") == set()
    assert len(alerts()) > 10
