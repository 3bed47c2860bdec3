"""For whoever is on call."""

from .dashboard import dashboard, first_token, outcomes, upstream_health
from .expressions import FAILED, MODEL, REQUEST, SERVED, UPSTREAM, or_zero, quantile, rate, share, share_by
from .panels import BAD, FAIR, GOOD, POOR, series, stat, table, thresholds


def upstreams():
    attempts = rate("weir_upstream_attempts_total", UPSTREAM, "upstream")
    month = "sum (sum_over_time(job:weir_requests_failed:rate5m[30d]))"
    month_all = "sum (sum_over_time(job:weir_requests:rate5m[30d]))"
    of_budget = "/ on () (weir:error_budget:ratio > 0)"
    recorded = " Needs the recording rules of deploy/prometheus; of all requests, whatever is selected."
    return dashboard(
        "weir-upstreams",
        "Upstreams and reliability",
        "What fails, where, and since when? For whoever is on call.",
        [
            (
                "Error budget",
                8,
                [
                    (
                        4,
                        stat(
                            "Budget left, 30 days",
                            "Of the failures that the objective allows in 30 days, the share that is left. Below 0: "
                            "overdrawn." + recorded,
                            f"1 - ({share(month, month_all)}) {of_budget}",
                            "percentunit",
                            thresholds((None, BAD), (0, POOR), (0.25, FAIR), (0.5, GOOD)),
                            "Rules are not loaded",
                            decimals=0,
                            spark=False,
                        ),
                    ),
                    (
                        8,
                        series(
                            "Burn rate",
                            "How many times faster than it may the error budget is used up. At 1 it lasts just 30 days; at "
                            "14.4 for an hour somebody is paged." + recorded,
                            [
                                (f"max (job:weir_requests_failed:ratio{window}) {of_budget}", window)
                                for window in ("5m", "1h", "6h", "1d")
                            ],
                            "short",
                            "No requests in this time",
                            steps=thresholds((None, GOOD), (1, FAIR), (14.4, BAD)),
                        ),
                    ),
                    (12, outcomes()),
                ],
            ),
            (
                "Failures",
                9,
                [
                    (
                        8,
                        series(
                            "Failures by cause",
                            "Requests a second that failed by an upstream's or the gateway's fault. RUNBOOK.md and the list "
                            "of metrics say what the causes mean.",
                            [(rate("weir_requests_total", f"{REQUEST}, {FAILED}", "cause"), "{{cause}}")],
                            "reqps",
                            "No failures in this time",
                            stack=True,
                        ),
                    ),
                    (
                        8,
                        series(
                            "Failed attempts by upstream",
                            "The share of tries at each upstream that failed there or on the way. Retries may "
                            "have hidden them from clients.",
                            [
                                (
                                    share_by(
                                        rate(
                                            "weir_upstream_attempts_total",
                                            f'{UPSTREAM}, result=~"upstream_.*|gateway_.*"',
                                            "upstream",
                                        ),
                                        attempts,
                                    ),
                                    "{{upstream}}",
                                )
                            ],
                            "percentunit",
                            "No upstream is configured",
                            high=1,
                        ),
                    ),
                    (
                        8,
                        series(
                            "Refusals by cause",
                            "Requests a second that were refused for the client's mistake or by policy: no failures.",
                            [
                                (
                                    rate("weir_requests_total", f'{REQUEST}, cause=~"client_.*|policy_.*"', "cause"),
                                    "{{cause}}",
                                )
                            ],
                            "reqps",
                            "No refusals in this time",
                            stack=True,
                        ),
                    ),
                ],
            ),
            (
                "Upstreams",
                8,
                [
                    (8, upstream_health()),
                    (
                        8,
                        series(
                            "Until the answer begins, p95",
                            "95 of 100 attempts that were answered have the head of their answer within this time; one that is not "
                            "streamed, the whole answer.",
                            [(quantile(0.95, "weir_upstream_duration_seconds", SERVED, "upstream"), "{{upstream}}")],
                            "s",
                            "No attempts in this time",
                        ),
                    ),
                    (
                        8,
                        series(
                            "Attempts",
                            "Tries a second at each upstream, retries and hedges too.",
                            [(attempts, "{{upstream}}")],
                            "reqps",
                            "No upstream is configured",
                            stack=True,
                        ),
                    ),
                    (
                        8,
                        series(
                            "Endpoints and credentials out of use",
                            "Endpoints that are ejected, and credentials that are put aside because the "
                            "upstream refused or limits them.",
                            [
                                (
                                    f'sum by (upstream) (weir_upstream_endpoints{{{UPSTREAM}, state="ejected"}})',
                                    "{{upstream}}: ejected",
                                ),
                                (
                                    f'max by (upstream, state) (weir_upstream_credentials{{{UPSTREAM}, state!="in_use"}})',
                                    "{{upstream}}: {{state}} credentials",
                                ),
                            ],
                            empty="No remote upstream is configured",
                            decimals=0,
                        ),
                    ),
                    (
                        8,
                        series(
                            "In flight",
                            "Calls under way at each upstream, at all gateways, and what `max_concurrent` allows where it is set.",
                            [
                                (f"sum by (upstream) (weir_upstream_in_flight{{{UPSTREAM}}})", "{{upstream}}"),
                                (
                                    f"sum by (upstream) (weir_upstream_in_flight_limit{{{UPSTREAM}}})",
                                    "{{upstream}}: limit",
                                ),
                            ],
                            empty="No upstream is configured",
                            decimals=0,
                        ),
                    ),
                    (
                        8,
                        series(
                            "Waiting",
                            "Calls that wait for a place at an upstream. What finds the queue full is refused, or goes to the next target.",
                            [(f"sum by (upstream) (weir_upstream_queue_length{{{UPSTREAM}}})", "{{upstream}}")],
                            empty="No upstream is configured",
                            decimals=0,
                        ),
                    ),
                ],
            ),
            (
                "Saved by trying again",
                8,
                [
                    (
                        8,
                        series(
                            "Retries, fallbacks, hedges",
                            "Tries a second after a request's first: at the same upstream, at another one, or beside a slow one.",
                            [(rate("weir_retries_total", SERVED, "kind"), "{{kind}}")],
                            "reqps",
                            "Nothing was tried twice in this time",
                            stack=True,
                        ),
                    ),
                    (
                        8,
                        series(
                            "Why",
                            "How the try before it had failed.",
                            [(rate("weir_retries_total", f'{SERVED}, kind!="hedge"', "cause"), "{{cause}}")],
                            "reqps",
                            "Nothing was tried twice in this time",
                            stack=True,
                        ),
                    ),
                    (
                        8,
                        series(
                            "At its end",
                            "Answered by the local model in the place of remote ones; retries left undone because the share of "
                            "them in an upstream's traffic was used up.",
                            [
                                (or_zero(rate("weir_degraded_total", MODEL)), "degraded"),
                                (or_zero(rate("weir_retry_budget_exhausted_total", UPSTREAM)), "no retry left"),
                            ],
                            "reqps",
                        ),
                    ),
                ],
            ),
            (
                "How long it takes",
                8,
                [
                    (
                        8,
                        series(
                            "First token",
                            "From the request's arrival to the first content of its stream.",
                            first_token(),
                            "s",
                            "No streams in this time",
                            steps=thresholds((None, GOOD), (5, BAD)),
                        ),
                    ),
                    (
                        8,
                        series(
                            "Each further token",
                            "The mean time between the tokens of a stream after its first.",
                            [
                                (quantile(q, "weir_time_per_output_token_seconds", SERVED), f"p{round(q * 100)}")
                                for q in (0.5, 0.95, 0.99)
                            ],
                            "s",
                            "No streams in this time",
                        ),
                    ),
                    (
                        8,
                        series(
                            "Our own overhead",
                            "What the gateway itself adds until the head of an answer: reading, limits, ledger, choosing.",
                            [
                                (quantile(q, "weir_request_overhead_seconds", ""), f"p{round(q * 100)}")
                                for q in (0.5, 0.95, 0.99)
                            ],
                            "s",
                            "No requests in this time",
                        ),
                    ),
                ],
            ),
            (
                "The gateways",
                8,
                [
                    (
                        6,
                        series(
                            "CPU",
                            "Cores in use by each gateway.",
                            [
                                (
                                    'sum by (instance) (rate(process_cpu_seconds_total{job=~"weir.*"}[$__rate_interval]))',
                                    "{{instance}}",
                                )
                            ],
                            "short",
                            "Not told on this system",
                        ),
                    ),
                    (
                        6,
                        series(
                            "Memory",
                            "Resident memory of each gateway.",
                            [('sum by (instance) (process_resident_memory_bytes{job=~"weir.*"})', "{{instance}}")],
                            "bytes",
                            "Not told on this system",
                        ),
                    ),
                    (
                        6,
                        series(
                            "Connections and files",
                            "Open connections of the data listener and open files, as a share of what is allowed.",
                            [
                                (
                                    'weir_connections{listener="data"} / (weir_connections_limit{listener="data"} > 0)',
                                    "{{instance}}: connections",
                                ),
                                ('process_open_fds{job=~"weir.*"} / (process_max_fds > 0)', "{{instance}}: files"),
                            ],
                            "percentunit",
                            "–",
                            high=1,
                        ),
                    ),
                    (
                        6,
                        table(
                            "Running",
                            "Version, whether its last configuration was taken, and the days that its certificate is still good.",
                            [
                                (
                                    "Started",
                                    "max by (instance, version) (weir_start_time_seconds * on (instance, job) group_left (version) weir_build_info) * 1000",
                                    "dateTimeFromNow",
                                ),
                                (
                                    "Configuration taken",
                                    "min by (instance, version) (weir_config_last_reload_successful * on (instance, job) group_left (version) weir_build_info)",
                                    "bool_yes_no",
                                ),
                                (
                                    "Certificate ends in",
                                    "min by (instance, version) ((weir_tls_certificate_expiry_timestamp_seconds - time()) * on (instance, job) group_left (version) weir_build_info)",
                                    "s",
                                ),
                            ],
                            ["instance", "version"],
                            "Started",
                        ),
                    ),
                ],
            ),
        ],
    )
