"""For a screen on the wall."""

from .dashboard import dashboard, outcomes, upstream_health
from .expressions import REQUEST, SERVED, UPSTREAM, or_zero, quantile, rate, share
from .panels import ANY_IS_BAD, BAD, FAIR, GOOD, POOR, series, stat, thresholds


def overview():
    requests = rate("weir_requests_total", REQUEST)
    # Whatever is selected: only these series are there before the first failure, and show it.
    ended = rate("weir_requests_by_blame_total", "")
    failed = rate("weir_requests_by_blame_total", 'blame=~"upstream|gateway"')
    return dashboard(
        "weir-overview",
        "Overview",
        "Is everything well, and how much is going on? For a screen on the wall.",
        [
            (
                "Now",
                4,
                [
                    (3, stat("Requests", "Requests a second, of all kinds and endings.", or_zero(requests), "reqps")),
                    (
                        3,
                        stat(
                            "Not failed",
                            "The share of all requests, whatever is selected, that did not fail by an upstream's or the "
                            "gateway's fault. What the client did wrong and what a limit refused is no failure. The "
                            "objective is 99.5 %.",
                            f"1 - {share(failed, ended)}",
                            "percentunit",
                            thresholds((None, BAD), (0.98, POOR), (0.995, GOOD)),
                            decimals=2,
                        ),
                    ),
                    (
                        3,
                        stat(
                            "First token, p95",
                            "95 of 100 streams have their first token within this time.",
                            quantile(0.95, "weir_time_to_first_token_seconds", SERVED),
                            "s",
                            thresholds((None, GOOD), (2, FAIR), (5, BAD)),
                            "no streams",
                        ),
                    ),
                    (
                        3,
                        stat(
                            "Tokens",
                            "Tokens a second, of all classes, in and out.",
                            or_zero(rate("weir_tokens_total", REQUEST)),
                            "short",
                            decimals=0,
                        ),
                    ),
                    (
                        3,
                        stat(
                            "Spend, 24 h",
                            "What the last 24 hours cost, by the price tables. The ledger is the bill.",
                            or_zero(f"sum (increase(weir_cost_nanodollars_total{{{REQUEST}}}[24h])) / 1e9"),
                            "currencyUSD",
                            decimals=2,
                            spark=False,
                        ),
                    ),
                    (
                        3,
                        stat(
                            "In flight",
                            "Requests under way now, at all gateways.",
                            or_zero("sum (weir_requests_in_flight)"),
                            decimals=0,
                        ),
                    ),
                    (
                        3,
                        stat(
                            "Upstreams down",
                            "Upstreams that no gateway can use.",
                            or_zero(
                                f"count (max by (upstream) (weir_upstream_ready{{{UPSTREAM}}}) == 0)"
                            ),
                            steps=ANY_IS_BAD,
                            decimals=0,
                        ),
                    ),
                    (
                        3,
                        stat(
                            "Alerts",
                            "Alerts of Weir that are firing. deploy/RUNBOOK.md says what to do about each.",
                            or_zero('count (ALERTS{alertname=~"Weir.+", alertstate="firing"})'),
                            steps=ANY_IS_BAD,
                            decimals=0,
                        ),
                    ),
                ],
            ),
            (
                "Traffic and how long it waits",
                9,
                [
                    (12, outcomes()),
                    (
                        12,
                        series(
                            "How long clients wait",
                            "The time to a stream's first token, and to the end of an answer, streamed or not: "
                            "the median, and what 95 of 100 stay within.",
                            [
                                (quantile(q, metric, SERVED), f"{what} p{round(q * 100)}")
                                for metric, what in (
                                    ("weir_time_to_first_token_seconds", "first token"),
                                    ("weir_request_duration_seconds", "whole answer"),
                                )
                                for q in (0.5, 0.95)
                            ],
                            "s",
                            "No requests in this time",
                        ),
                    ),
                ],
            ),
            (
                "What is used",
                9,
                [
                    (
                        12,
                        series(
                            "Tokens by class",
                            "Tokens a second. The classes do not overlap: input is what was neither read from nor "
                            "written to the upstream's prompt cache, output what was not reasoning.",
                            [(rate("weir_tokens_total", REQUEST, "type"), "{{type}}")],
                            "short",
                            "No tokens in this time",
                            stack=True,
                        ),
                    ),
                    (
                        12,
                        series(
                            "Spend by team",
                            "US dollars an hour, by the price tables.",
                            [(f"{rate('weir_cost_nanodollars_total', REQUEST, 'team')} * 3600 / 1e9", "{{team}}")],
                            "currencyUSD",
                            "Nothing was spent in this time",
                            stack=True,
                        ),
                    ),
                ],
            ),
            (
                "Where it goes",
                9,
                [
                    (12, upstream_health()),
                    (
                        12,
                        series(
                            "Requests by model",
                            "Requests a second, by the configured model or pattern that was asked for.",
                            [(rate("weir_requests_total", REQUEST, "model"), "{{model}}")],
                            "reqps",
                            "No requests in this time",
                            stack=True,
                        ),
                    ),
                ],
            ),
        ],
    )
