"""For whoever serves the model in the process."""

from .dashboard import dashboard, first_token
from .expressions import MODEL, RATE, REQUEST, SERVED, UPSTREAM, quantile, rate
from .panels import BAD, CALM, FILLS, GOOD, POOR, mapped, series, stat, thresholds


def local():
    none = "No local model is configured"
    tokens = rate("weir_engine_tokens_total", UPSTREAM, "phase")
    steps = rate("weir_engine_steps_total", UPSTREAM)
    return dashboard(
        "weir-local",
        "Local model",
        "How busy is the Transformer in this process, and how fast? Upstreams of kind local.",
        [
            (
                "Now",
                4,
                [
                    (
                        4,
                        mapped(
                            stat(
                                "Model",
                                "Whether each local model is loaded and runs.",
                                f"min by (upstream) (weir_engine_ready{{{UPSTREAM}}})",
                                legend="{{upstream}}",
                                empty=none,
                                spark=False,
                            ),
                            {0: ("not ready", BAD), 1: ("ready", GOOD)},
                        ),
                    ),
                    (
                        4,
                        stat(
                            "Running",
                            "Sequences in the batch, of those that fit.",
                            f"sum (weir_engine_running_sequences{{{UPSTREAM}}}) / clamp_min(sum (weir_engine_running_sequences_limit{{{UPSTREAM}}}), 1)",
                            "percentunit",
                            FILLS,
                            none,
                            0,
                        ),
                    ),
                    (
                        4,
                        stat(
                            "KV cache",
                            "Places promised to running sequences, of all.",
                            f"sum (weir_engine_cache_tokens{{{UPSTREAM}}}) / clamp_min(sum (weir_engine_cache_tokens_limit{{{UPSTREAM}}}), 1)",
                            "percentunit",
                            FILLS,
                            none,
                            0,
                        ),
                    ),
                    (
                        4,
                        stat(
                            "Queue",
                            "Calls that wait for the model, of those that may. When it is full calls are refused with 503.",
                            f"sum (weir_upstream_queue_length{{{UPSTREAM}}}) / clamp_min(sum (weir_upstream_queue_limit{{{UPSTREAM}}}), 1)",
                            "percentunit",
                            FILLS,
                            none,
                            0,
                        ),
                    ),
                    (
                        4,
                        stat(
                            "Generated",
                            "Tokens a second that the model generates.",
                            rate("weir_engine_tokens_total", f'{UPSTREAM}, phase="decode"'),
                            "short",
                            empty=none,
                            decimals=1,
                        ),
                    ),
                    (
                        4,
                        stat(
                            "Computing",
                            "The share of the time that is spent in steps of the model.",
                            f"clamp_max(avg (rate(weir_engine_step_seconds_total{{{UPSTREAM}}}{RATE})), 1)",
                            "percentunit",
                            thresholds((None, CALM), (0.9, POOR)),
                            none,
                            0,
                        ),
                    ),
                ],
            ),
            (
                "Speed",
                9,
                [
                    (
                        8,
                        series(
                            "Tokens",
                            "Tokens a second: prefill reads prompts, decode generates.",
                            [(tokens, "{{phase}}")],
                            "short",
                            none,
                        ),
                    ),
                    (
                        8,
                        series(
                            "First token",
                            "From a request's arrival to the first content of its stream.",
                            first_token(f"{UPSTREAM}, {MODEL}"),
                            "s",
                            "No streams in this time",
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
                ],
            ),
            (
                "Room",
                9,
                [
                    (
                        8,
                        series(
                            "Sequences",
                            "Sequences in the batch, and how many fit.",
                            [
                                (f"sum (weir_engine_running_sequences{{{UPSTREAM}}})", "used"),
                                (f"sum (weir_engine_running_sequences_limit{{{UPSTREAM}}})", "limit"),
                            ],
                            empty=none,
                            decimals=0,
                        ),
                    ),
                    (
                        8,
                        series(
                            "KV cache",
                            "Places of the KV cache that are promised to running sequences, and all there are.",
                            [
                                (f"sum (weir_engine_cache_tokens{{{UPSTREAM}}})", "used"),
                                (f"sum (weir_engine_cache_tokens_limit{{{UPSTREAM}}})", "limit"),
                            ],
                            empty=none,
                            decimals=0,
                        ),
                    ),
                    (
                        8,
                        series(
                            "Waiting",
                            "Calls that wait for a place in the batch, and how many may.",
                            [
                                (f"sum (weir_upstream_queue_length{{{UPSTREAM}}})", "used"),
                                (f"sum (weir_upstream_queue_limit{{{UPSTREAM}}})", "limit"),
                            ],
                            empty=none,
                            decimals=0,
                        ),
                    ),
                ],
            ),
            (
                "Steps",
                9,
                [
                    (
                        8,
                        series(
                            "Time of a step",
                            "The mean time of one step of the whole batch.",
                            [
                                (
                                    f"{rate('weir_engine_step_seconds_total', UPSTREAM)} / clamp_min({steps}, 1e-9)",
                                    "mean",
                                )
                            ],
                            "s",
                            none,
                        ),
                    ),
                    (
                        8,
                        series(
                            "Tokens in a step",
                            "How many tokens a step works on: the more, the better the batch pays.",
                            [(f"{rate('weir_engine_tokens_total', UPSTREAM)} / clamp_min({steps}, 1e-9)", "mean")],
                            "short",
                            none,
                        ),
                    ),
                    (
                        8,
                        series(
                            "Who uses it",
                            "Requests a second that the model served, by key.",
                            [(rate("weir_requests_total", REQUEST, "team, key"), "{{team}} {{key}}")],
                            "reqps",
                            "No requests in this time",
                            stack=True,
                        ),
                    ),
                ],
            ),
        ],
        upstreams="weir_engine_ready",
    )
