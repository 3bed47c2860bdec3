"""For whoever answers for the money."""

from .dashboard import budgets, dashboard
from .expressions import MODEL, RANGE, REQUEST, SAVED, limits_of, or_zero, quantile, total
from .panels import ANY_IS_BAD, GOOD, series, stat, table, thresholds


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
        "weir-usage",
        "Usage and cost",
        "Who used what, and what it cost. For whoever answers for the money.",
        [
            (
                "In the time shown",
                4,
                [
                    (
                        4,
                        stat(
                            "Spend",
                            "By the price tables; the ledger (`weir usage`) is the bill." + recorded,
                            or_zero(total(cost, REQUEST)),
                            "currencyUSD",
                            decimals=2,
                            spark=False,
                        ),
                    ),
                    (
                        4,
                        stat(
                            "Requests",
                            "All that the selected keys sent, refused ones too." + recorded,
                            or_zero(total(requests, REQUEST)),
                            decimals=0,
                            spark=False,
                        ),
                    ),
                    (
                        4,
                        stat(
                            "Input tokens",
                            "Prompts, cached or not." + recorded,
                            or_zero(total(tokens, inputs)),
                            spark=False,
                        ),
                    ),
                    (
                        4,
                        stat(
                            "Output tokens",
                            "What was generated, reasoning too." + recorded,
                            or_zero(total(tokens, outputs)),
                            spark=False,
                        ),
                    ),
                    (
                        4,
                        stat(
                            "Saved by the cache",
                            "What answers from the cache would have cost." + recorded,
                            or_zero(total(saved, SAVED)),
                            "currencyUSD",
                            thresholds((None, GOOD)),
                            decimals=2,
                            spark=False,
                        ),
                    ),
                    (
                        4,
                        stat(
                            "Without a price",
                            "Requests that used tokens of a model that no price table knows: their cost is missing, "
                            "and budgets in money do not see them. Add the model to `[ledger] prices`.",
                            or_zero(f"sum (increase(weir_unpriced_requests_total{{{SAVED}}}{RANGE}))"),
                            steps=ANY_IS_BAD,
                            decimals=0,
                            spark=False,
                        ),
                    ),
                ],
            ),
            (
                "Money",
                9,
                [
                    (
                        12,
                        series(
                            "Spend by team",
                            "US dollars in each step of the graph." + recorded,
                            [(per_interval(cost, "team"), "{{team}}")],
                            "currencyUSD",
                            "Nothing was spent in this time",
                            stack=True,
                            bars=True,
                            calcs=("sum", "max"),
                            interval="1h",
                        ),
                    ),
                    (
                        12,
                        series(
                            "Spend by model",
                            "US dollars in each step of the graph." + recorded,
                            [(per_interval(cost, "model"), "{{model}}")],
                            "currencyUSD",
                            "Nothing was spent in this time",
                            stack=True,
                            bars=True,
                            calcs=("sum", "max"),
                            interval="1h",
                        ),
                    ),
                    (
                        14,
                        table(
                            "Teams and keys",
                            "Requests, tokens and money of each key in the time shown." + recorded,
                            who("team, key"),
                            ["team", "key"],
                            "Spend",
                            "No requests in this time",
                        ),
                    ),
                    (
                        10,
                        table(
                            "Models",
                            "The same for each model and who served it." + recorded,
                            who("model, upstream"),
                            ["model", "upstream"],
                            "Spend",
                            "No requests in this time",
                        ),
                    ),
                ],
            ),
            (
                "Budgets",
                9,
                [
                    (10, budgets()),
                    (
                        14,
                        table(
                            "Budgets in money and tokens",
                            "What each budget allows, and what of it is used, as the gateways hold it now.",
                            [
                                ("Share", limits_of("weir_budget_used_ratio", "holder, name, per"), "percentunit"),
                                ("Used $", limits_of("weir_budget_used_dollars", "holder, name, per"), "currencyUSD"),
                                ("Of $", limits_of("weir_budget_limit_dollars", "holder, name, per"), "currencyUSD"),
                                ("Used tokens", limits_of("weir_budget_used_tokens", "holder, name, per"), "short"),
                                ("Of tokens", limits_of("weir_budget_limit_tokens", "holder, name, per"), "short"),
                            ],
                            ["holder", "name", "per"],
                            "Share",
                            "No budget is configured",
                        ),
                    ),
                ],
            ),
            (
                "Tokens",
                9,
                [
                    (
                        12,
                        series(
                            "Tokens by class",
                            "Tokens in each step of the graph, by class; the classes do not overlap." + recorded,
                            [(per_interval(tokens, "type"), "{{type}}")],
                            "short",
                            "No tokens in this time",
                            stack=True,
                            bars=True,
                            calcs=("sum", "max"),
                            interval="1h",
                        ),
                    ),
                    (
                        6,
                        series(
                            "Size of prompts",
                            "Tokens of a request's whole prompt, cached or not.",
                            [
                                (quantile(q, "weir_request_tokens", f'type="input", {MODEL}'), f"p{round(q * 100)}")
                                for q in (0.5, 0.95)
                            ],
                            "short",
                            "No requests in this time",
                        ),
                    ),
                    (
                        6,
                        series(
                            "Size of answers",
                            "Tokens generated for a request, reasoning too.",
                            [
                                (quantile(q, "weir_request_tokens", f'type="output", {MODEL}'), f"p{round(q * 100)}")
                                for q in (0.5, 0.95)
                            ],
                            "short",
                            "No requests in this time",
                        ),
                    ),
                ],
            ),
        ],
        since="now-7d",
        refresh="5m",
    )
