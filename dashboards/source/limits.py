"""For whoever keeps it running."""

from .dashboard import budgets, dashboard
from .expressions import RATE, SAVED, limits_of, or_zero, rate, share
from .panels import BAD, FAIR, GOOD, POOR, bars, mapped, series, stat, states, thresholds


def limits():
    hits = f'sum (rate(weir_cache_requests_total{{result=~"hit|joined"}}{RATE}))'
    asked = f'sum (rate(weir_cache_requests_total{{result!="bypass"}}{RATE}))'
    used = limits_of("weir_limit_used_ratio", "holder, name, dimension, models, mode")
    away = "No Redis is configured"
    return dashboard(
        "weir-limits",
        "Limits and cache",
        "How near is everybody to what they may, and what does the cache save? And how are Redis and the ledger?",
        [
            (
                "Now",
                4,
                [
                    (
                        4,
                        stat(
                            "Refused by limits",
                            "Our own 429s a second, by rate and concurrency limits.",
                            or_zero(rate("weir_limit_refusals_total", 'mode="refuse"')),
                            "reqps",
                            thresholds((None, GOOD), (0.0001, FAIR)),
                        ),
                    ),
                    (
                        4,
                        stat(
                            "Refused by budgets",
                            "Our own 429s a second, because a budget is spent.",
                            or_zero(rate("weir_budget_refusals_total", "")),
                            "reqps",
                            thresholds((None, GOOD), (0.0001, FAIR)),
                        ),
                    ),
                    (
                        4,
                        stat(
                            "Answered from the cache",
                            "Hits and joined calls, of the calls that the cache may answer.",
                            share(hits, asked),
                            "percentunit",
                            decimals=1,
                        ),
                    ),
                    (
                        4,
                        stat(
                            "Saved, 24 h",
                            "What answers from the cache would have cost.",
                            or_zero(f"sum (increase(weir_cache_saved_nanodollars_total{{{SAVED}}}[24h])) / 1e9"),
                            "currencyUSD",
                            thresholds((None, GOOD)),
                            decimals=2,
                            spark=False,
                        ),
                    ),
                    (
                        4,
                        mapped(
                            stat(
                                "Redis",
                                "Whether every gateway can reach the Redis of its limits. While it is away they are in outage mode.",
                                'min (weir_redis_up{of="limits"})',
                                empty="not used",
                                spark=False,
                            ),
                            {0: ("away", BAD), 1: ("up", GOOD)},
                        ),
                    ),
                    (
                        4,
                        mapped(
                            stat(
                                "Ledger",
                                "Whether every gateway can write its ledger.",
                                "max (weir_ledger_failing)",
                                empty="no gateway",
                                spark=False,
                            ),
                            {0: ("written", GOOD), 1: ("failing", BAD)},
                        ),
                    ),
                ],
            ),
            (
                "Limits",
                9,
                [
                    (
                        8,
                        bars(
                            "Nearest limits",
                            "The 15 limits that are used most, of the selected teams and keys, of routes and the gateway: of what may "
                            "come at once, the share that is taken. At 100 % calls are refused with 429.",
                            f"topk(15, {used})",
                            "{{holder}} {{name}} {{dimension}} {{models}}",
                            empty="No limit is configured",
                        ),
                    ),
                    (
                        8,
                        series(
                            "Limits over time",
                            "The same for all limits that were ever used by a fifth or more.",
                            [(f"{used} >= 0.2", "{{holder}} {{name}} {{dimension}} {{models}}")],
                            "percentunit",
                            "No limit was used by a fifth in this time",
                            high=1,
                        ),
                    ),
                    (
                        8,
                        series(
                            "Refusals",
                            "429s a second by the limit that refused; `shadow` ones were only counted, and let in.",
                            [
                                (
                                    f'sum by (holder, name, dimension, mode) (rate(weir_limit_refusals_total{{holder="team", name=~"$team"}}{RATE}) or '
                                    f'rate(weir_limit_refusals_total{{holder="key", name=~"$key"}}{RATE}) or rate(weir_limit_refusals_total{{holder!~"team|key"}}{RATE}))',
                                    "{{holder}} {{name}} {{dimension}} ({{mode}})",
                                )
                            ],
                            "reqps",
                            "Nothing was refused in this time",
                            stack=True,
                        ),
                    ),
                    (8, budgets()),
                    (
                        8,
                        series(
                            "Budgets over time",
                            "The share of each budget that is used.",
                            [
                                (
                                    limits_of("weir_budget_used_ratio", "holder, name, unit, per"),
                                    "{{holder}} {{name}}, {{unit}} per {{per}}",
                                )
                            ],
                            "percentunit",
                            "No budget is configured",
                            steps=thresholds((None, GOOD), (0.9, POOR), (1, BAD)),
                        ),
                    ),
                    (
                        8,
                        series(
                            "Refusals by budgets",
                            "429s a second (insufficient_quota), by the budget that is spent.",
                            [
                                (
                                    "sum by (holder, name, unit, per) (rate(weir_budget_refusals_total[$__rate_interval]))",
                                    "{{holder}} {{name}}, {{unit}} per {{per}}",
                                )
                            ],
                            "reqps",
                            "Nothing was refused in this time",
                            stack=True,
                        ),
                    ),
                ],
            ),
            (
                "Cache",
                9,
                [
                    (
                        8,
                        series(
                            "Calls by result",
                            "hit: from the cache; joined: shared one that was under way; miss: went upstream; bypass: not for the cache.",
                            [("sum by (result) (rate(weir_cache_requests_total[$__rate_interval]))", "{{result}}")],
                            "reqps",
                            "The cache is off",
                            stack=True,
                        ),
                    ),
                    (
                        8,
                        series(
                            "Saved by team",
                            "US dollars an hour that answers from the cache would have cost.",
                            [(f"{rate('weir_cache_saved_nanodollars_total', SAVED, 'team')} * 3600 / 1e9", "{{team}}")],
                            "currencyUSD",
                            "Nothing was saved in this time",
                            stack=True,
                        ),
                    ),
                    (
                        8,
                        series(
                            "Saved tokens",
                            "Tokens a second that answers from the cache would have used.",
                            [(rate("weir_cache_saved_tokens_total", SAVED, "type"), "{{type}}")],
                            "short",
                            "Nothing was saved in this time",
                            stack=True,
                        ),
                    ),
                    (
                        8,
                        series(
                            "Room",
                            "What all answers in memory take, and what they may (`max_bytes`), of all gateways.",
                            [("sum (weir_cache_bytes)", "used"), ("sum (weir_cache_limit_bytes)", "limit")],
                            "bytes",
                            "No gateway",
                        ),
                    ),
                    (
                        8,
                        series(
                            "Comings and goings",
                            "Answers a second: stored, too large to be stored, and removed, by reason. Many that go for their size: `max_bytes` is small.",
                            [
                                ("sum (rate(weir_cache_stored_total[$__rate_interval]))", "stored"),
                                ("sum (rate(weir_cache_too_large_total[$__rate_interval]))", "too large"),
                                (
                                    "sum by (reason) (rate(weir_cache_removed_total[$__rate_interval]))",
                                    "removed: {{reason}}",
                                ),
                            ],
                            "ops",
                            "No gateway",
                        ),
                    ),
                    (
                        8,
                        series(
                            "Entries",
                            "Answers in memory, by gateway.",
                            [("sum by (instance) (weir_cache_entries)", "{{instance}}")],
                            empty="No gateway",
                            decimals=0,
                        ),
                    ),
                ],
            ),
            (
                "Redis",
                8,
                [
                    (
                        8,
                        states(
                            "Reach",
                            "Whether each gateway can reach Redis, by what is shared there.",
                            "min by (instance, of) (weir_redis_up)",
                            "{{instance}} {{of}}",
                            {0: ("away", BAD), 1: ("up", GOOD)},
                            away,
                        ),
                    ),
                    (
                        8,
                        series(
                            "Calls",
                            "Calls to the Redis of the limits a second, those that failed, and requests that were decided without it or refused for want of it.",
                            [
                                ('sum (rate(weir_redis_calls_total{of="limits"}[$__rate_interval]))', "calls"),
                                ('sum (rate(weir_redis_failures_total{of="limits"}[$__rate_interval]))', "failed"),
                                ('sum (rate(weir_redis_alone_total{of="limits"}[$__rate_interval]))', "decided alone"),
                                ('sum (rate(weir_redis_settlements_lost_total{of="limits"}[$__rate_interval]))', "settlements lost"),
                            ],
                            "ops",
                            away,
                        ),
                    ),
                    (
                        8,
                        series(
                            "Time of a call",
                            "The mean time that a request waited for the Redis of the limits.",
                            [
                                (
                                    'sum by (instance) (rate(weir_redis_call_seconds_total{of="limits"}[$__rate_interval])) / clamp_min(sum by (instance) (rate(weir_redis_calls_total{of="limits"}[$__rate_interval])), 1e-9)',
                                    "{{instance}}",
                                )
                            ],
                            "s",
                            away,
                        ),
                    ),
                ],
            ),
            (
                "Ledger",
                8,
                [
                    (
                        8,
                        series(
                            "Places",
                            "Calls under way and rows not yet written, and how many there may be; at the limit calls are refused with 503.",
                            [
                                ("max (weir_ledger_open_rows)", "used"),
                                ("max (weir_ledger_owed_rows)", "owed, for the file cannot be written"),
                                ("min (weir_ledger_open_rows_limit)", "limit"),
                            ],
                            empty="No gateway",
                            decimals=0,
                        ),
                    ),
                    (
                        8,
                        series(
                            "Rows",
                            "Rows a second that were written, and the commits that it took; failures; rows that were given up or left out.",
                            [
                                ("sum (rate(weir_ledger_rows_total[$__rate_interval]))", "rows"),
                                ("sum (rate(weir_ledger_commits_total[$__rate_interval]))", "commits"),
                                ("sum (rate(weir_ledger_failures_total[$__rate_interval]))", "failures"),
                                ("sum (rate(weir_ledger_given_up_rows_total[$__rate_interval]))", "given up"),
                                (
                                    "sum (rate(weir_ledger_left_out_rows_total[$__rate_interval]))",
                                    "left out (refusals of one key)",
                                ),
                            ],
                            "ops",
                            "No gateway",
                        ),
                    ),
                    (
                        8,
                        series(
                            "Size",
                            "The ledger's file, its write-ahead log and its journals, by gateway.",
                            [("sum by (instance) (weir_ledger_bytes)", "{{instance}}")],
                            "bytes",
                            "No gateway",
                        ),
                    ),
                ],
            ),
        ],
    )
