"""A gateway under traffic and under each fault, seen by a real Prometheus: every panel has something to show, and every alert
fires for its own fault and for no other.

The tests are one story, told in this order; each alert that has fired may fire on, and any other is an error.
"""

import contextlib
import http.client
import json
import re
import threading

import promql
import pytest
import scene
from promql import alerts, everything, escaped, level, panels, records, rules, substituted, undeclared
from scene import certificate, eventually

ALICE, BOB, CAROL, DAVE = (f"key-of-{name}-in-the-tests" for name in ("alice", "bob", "carol", "dave"))
MANY = 110
# The bundled model's contexts are short: as many as are computed together take a tenth of its cache. By promtool alone.
OUT_OF_REACH = {"WeirLocalCacheSaturated"}

CONFIG = """
[server]
listen = "127.0.0.1:0"
max_connections = 100
tls = {{ cert = "tls.crt", key = "tls.key" }}

[admin]
listen = "127.0.0.1:0"
token = "{token}"

[log]
format = "json"
queue = 128

[metrics]
max_series = 100

[redis]
url = "redis://127.0.0.1:{redis}"
timeout = "500ms"

[cache]
max_bytes = "256KiB"
max_entry = "64KiB"

[ledger]
max_open = 64

[retry]
backoff = {{ base = "10ms", max = "10ms" }}
budget = 1.0

[[upstream]]
name = "local"
kind = "local"
model = "bundled:poet"
models = ["poet"]
queue = 20
{upstreams}
[[upstream]]
name = "narrow"
kind = "openai"
base_url = "{narrow}"
models = ["narrow"]
max_concurrent = 1
queue = 5

[[upstream]]
name = "pair"
kind = "openai"
base_urls = ["{pair_one}", "{pair_two}"]
models = ["pair"]
eject = {{ failures = 1, base = "5m" }}

[[route]]
model = "gpt-4*"
targets = [{{ upstream = "main" }}, {{ upstream = "second", priority = 1 }}]
limits = {{ requests_per_minute = 100_000 }}

[[route]]
model = "refused"
targets = [{{ upstream = "refusing", model = "gpt-4o" }}, {{ upstream = "second", model = "gpt-4o", priority = 1 }}]

[[route]]
model = "gone"
targets = [{{ upstream = "gone", model = "gpt-4o" }}, {{ upstream = "local", model = "poet", priority = 1 }}]

[[route]]
model = "hedged"
targets = [{{ upstream = "slow", model = "gpt-4o" }}, {{ upstream = "second", model = "gpt-4o" }}]
balance = "order"
hedge = {{ budget = 1.0, after = "50ms" }}

[[team]]
name = "research"
limits = {{ tokens_per_minute = 100_000_000 }}
budgets = [{{ amount = "1000 USD", per = "month" }}]

[[key]]
name = "alice"
team = "research"
secret = "{alice}"
limits = {{ requests_per_minute = 100_000 }}
budgets = [{{ amount = "100 USD", per = "month" }}, {{ tokens = 100_000_000, per = "day" }}]

[[key]]
name = "bob"
secret = "{bob}"

[[key]]
name = "carol"
team = "research"
secret = "{carol}"
budgets = [{{ tokens = 1000, per = "day" }}]

[[key]]
name = "dave"
team = "research"
secret = "{dave}"
limits = {{ requests_per_minute = 1 }}
"""


def configuration(upstreams, redis_port):
    remote = "".join(
        f'\n[[upstream]]\nname = "{name}"\nkind = "openai"\nbase_url = "{upstreams.url(name)}"\napi_keys = ["credential"]\n'
        f'models = ["{model}"]\neject = {{ failures = {1 if name == "gone" else 5}, base = "5m" }}\n'
        for name, model in (
            ("main", "main"), ("second", "text-*"), ("slow", "slow"), ("hanging", "hanging"), ("failing", "failing"),
            ("refusing", "refusing"), ("gone", "gone-itself"),
        )
    )  # fmt: skip
    keys = "".join(f'\n[[key]]\nname = "k{n}"\nsecret = "secret-of-key-{n}"\n' for n in range(MANY))
    text = CONFIG.format(
        token=scene.TOKEN, redis=redis_port, upstreams=remote, narrow=upstreams.url("narrow"),
        pair_one=upstreams.url("pair-one"), pair_two=upstreams.url("pair-two"), alice=ALICE, bob=BOB, carol=CAROL, dave=DAVE,
    )  # fmt: skip
    return text + keys


class Story:
    """All that runs, and which alerts have had their reason."""

    def __init__(self, gateway, prometheus, upstreams, folder, redis_port, text):
        self.gateway, self.prometheus, self.upstreams = gateway, prometheus, upstreams
        self.folder, self.redis_port, self.text = folder, redis_port, text
        self.redis = contextlib.ExitStack()
        self.expected = set()
        self.going = threading.Event()
        self.failures = []

    def traffic(self):
        """What goes well, over and over: answers, streams, embeddings, the same again for the cache, and the local model."""
        number = 0
        while not self.going.is_set():
            number += 1
            with contextlib.suppress(OSError, http.client.HTTPException):
                statuses = [
                    self.gateway.chat("gpt-4o", ALICE, temperature=0),
                    self.gateway.chat("gpt-4o", ALICE, f"question {number}"),
                    self.gateway.chat("gpt-4o", ALICE, stream=True),
                    self.gateway.chat("gpt-4o", BOB, stream=True),
                    self.gateway.chat("slow", BOB, stream=True) if number < 4 else 200,
                    self.gateway.ask(
                        "/v1/embeddings", {"model": "text-embedding-3-small", "input": f"{number}"}, ALICE
                    ),
                    self.gateway.chat("poet", ALICE, "写诗", stream=True, max_tokens=4) if number % 5 == 1 else 200,
                ]
                self.failures += [status for status in statuses if status != 200]
            self.going.wait(0.1)

    def unexpected(self):
        return [(name, labels) for name, labels in self.prometheus.firing() if name not in self.expected]

    def fires(self, alert, patience=scene.PATIENCE, **labels):
        """Waits until an alert fires with these labels, and holds that no other does that has had no reason yet."""
        self.expected.add(alert)

        def is_firing():
            assert not self.unexpected(), self.unexpected()
            found = [own for name, own in self.prometheus.firing() if name == alert]
            assert found, f"only {self.prometheus.firing()}"
            return [own for own in found if labels.items() <= own.items()]

        eventually(f"{alert} {labels}", is_firing, patience)
        assert not self.unexpected()

    def ends(self, alert):
        eventually(f"the end of {alert}", lambda: alert not in {name for name, _ in self.prometheus.firing()})

    def until_fires(self, alert, ask, patience=scene.PATIENCE, **labels):
        """Asks over and over until the alert fires."""
        stop = threading.Event()

        def asking():
            while not stop.is_set():
                with contextlib.suppress(OSError, http.client.HTTPException):
                    ask()
                stop.wait(0.01)

        thread = threading.Thread(target=asking, daemon=True)
        thread.start()
        try:
            self.fires(alert, patience, **labels)
        finally:
            stop.set()
            thread.join(30)

    @contextlib.contextmanager
    def connections(self, count):
        """So many connections, for as long as the block."""
        opened = [self.gateway.connection() for _ in range(count)]
        try:
            yield opened
        finally:
            for each in opened:
                each.close()

    @contextlib.contextmanager
    def under_way(self, count, model, way, **more):
        """So many calls under way at an upstream that is slow or hangs, for as long as the block; then they have their answers."""
        self.upstreams.ways[model] = way
        body = json.dumps({"model": model, "messages": [{"role": "user", "content": "a"}], **more})
        headers = {"authorization": f"Bearer {BOB}", "content-type": "application/json"}
        with self.connections(count) as opened:
            try:
                for each in opened:
                    each.request("POST", "/v1/chat/completions", body, headers)
                yield
            finally:
                self.upstreams.ways[model] = "ok"
                for each in opened:
                    each.getresponse().read()


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weir")
    with contextlib.ExitStack() as all_of_it:
        upstreams = scene.Upstreams()
        all_of_it.callback(upstreams.stop)
        upstreams.ways.update({"failing": "failing", "pair-two": "ok"})
        redis_port = scene.free_port()
        redis = contextlib.ExitStack()
        all_of_it.enter_context(redis)
        redis.enter_context(scene.redis(redis_port))
        text = configuration(upstreams, redis_port)
        gateway = all_of_it.enter_context(scene.gateway(folder, text))
        prometheus = all_of_it.enter_context(scene.prometheus(folder, gateway.admin))
        it = Story(gateway, prometheus, upstreams, folder, redis_port, text)
        it.redis = redis
        worker = threading.Thread(target=it.traffic, daemon=True)
        worker.start()
        all_of_it.callback(worker.join, 30)
        all_of_it.callback(it.going.set)
        all_of_it.callback(upstreams.stopping.set)
        yield it


# === What panels and rules ask ===


def selections(story, dashboard):
    """Values for the variables: all of each, then one of each, in the few combinations that belong together."""
    variables = {v["name"]: v for v in dashboard["templating"]["list"] if v["type"] == "query"}
    offered = {}
    for name, variable in variables.items():
        query = substituted(variable["query"]["query"], {"team": ".*"})
        offered[name] = story.prometheus.values(query)
        assert offered[name], f"{query} offers nothing"
    everybody = {name: everything(variable, offered[name]) for name, variable in variables.items()}
    one = []
    for team, key, model, upstream in (
        ("research", "alice", "gpt-4*", "main"), ("none", "bob", "gpt-4*", "main"), ("research", "alice", "poet", "local"),
        ("none", "bob", "failing", "failing"), ("none", "bob", "pair", "pair"), ("none", "bob", "hedged", "second"),
        ("none", "bob", "gone", "local"), ("none", "bob", "narrow", "narrow"), ("research", "carol", "gpt-4*", "main"),
        ("none", "bob", "unpriced", "none"), ("research", "alice", "text-*", "second"), ("research", "dave", "gpt-4*", "none"),
    ):  # fmt: skip
        chosen = {"team": team, "key": key, "model": model, "upstream": upstream}
        one.append({name: escaped(value) for name, value in chosen.items()})
    return everybody, one


def answers(story, panel, values):
    """What each of a panel's queries returns, with these values."""
    for target in panel["targets"]:
        expression = substituted(target["expr"], values)
        yield target, story.prometheus.now(expression) if target["instant"] else story.prometheus.course(expression)


def shown(place, target, result):
    """Holds that what a query returned can be shown: numbers, and a name for each."""
    for series in result:
        for _, value in series.get("values", [series.get("value")]):
            assert value.lstrip("+-") not in ("NaN", "Inf"), f"{place}: {target['expr']} is {value}"
        for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
            assert label in series["metric"], f"{place}: {target['legendFormat']} lacks {label} in {series['metric']}"


def undeclared_by(story, expressions):
    declared = {
        **story.gateway.metrics(),
        **promql.PROMETHEUS,
        **{rule["record"]: level(rule["record"]) for rule in records()},
    }
    return {expression: wrong for expression in expressions if (wrong := undeclared(expression, declared))}


# === The story ===


def test_in_ordinary_use_no_panel_shows_nonsense_and_no_alert_fires(story):
    busy = 'sum (increase(weir_requests_total{upstream="local", cause=""}[1m])) > 0 and sum (increase(weir_requests_total[1m])) > 50'
    eventually("there was traffic", lambda: story.prometheus.now(busy))
    eventually(
        "usage is recorded",
        lambda: story.prometheus.now("job_team_key_model_upstream:weir_cost_dollars:increase5m > 0"),
    )
    for place, dashboard, panel in panels():
        everybody, _ = selections(story, dashboard)
        for target, result in answers(story, panel, everybody):
            shown(place, target, result)
            assert result or panel["fieldConfig"]["defaults"]["noValue"] not in ("", "–"), (
                f"{place}: {target['expr']} is empty"
            )
    assert not story.prometheus.firing() and not story.failures


def test_a_budget_that_is_nearly_spent(story):
    story.until_fires(
        "WeirBudgetNearlySpent",
        lambda: story.gateway.chat("gpt-4o", CAROL),
        holder="key",
        name="carol",
        unit="tokens",
        per="day",
    )


def test_refusals_by_limits_are_no_alert(story):
    refused = 'sum (increase(weir_limit_refusals_total{holder="key", name="dave", mode="refuse"}[1m])) > 2'

    def is_refused():
        assert story.gateway.chat("gpt-4o", DAVE) in (200, 429)
        return story.prometheus.now(refused)

    eventually("a limit refuses", is_refused)
    assert not story.unexpected()


def test_a_certificate_that_ends_soon(story):
    certificate(story.folder, 3)
    story.gateway.reload()
    story.fires("WeirCertificateExpires", listener="data")
    certificate(story.folder, 90)
    story.gateway.reload()
    story.ends("WeirCertificateExpires")


def test_a_configuration_that_is_refused(story):
    story.gateway.write(story.text + "\n[[upstream]]\nname = 3\n")
    story.fires("WeirConfigReloadFailed")
    story.gateway.write(story.text)
    story.ends("WeirConfigReloadFailed")


def test_a_cache_that_is_too_small(story):
    numbers = iter(range(10**6))
    story.until_fires(
        "WeirCacheTooSmall",
        lambda: story.gateway.chat("gpt-4o", ALICE, f"large {next(numbers)}", temperature=0, size=20_000),
    )


def test_connections_near_their_limit(story):
    with story.connections(85) as opened:
        for each in opened:
            assert story.gateway.ask("/v1/embeddings", {"model": "text-a", "input": "a"}, ALICE, connection=each) == 200
        story.fires("WeirConnectionsNearLimit", listener="data")
    story.ends("WeirConnectionsNearLimit")


def test_lines_of_the_log_that_nobody_reads(story):
    story.gateway.reading.clear()
    try:
        story.until_fires("WeirLogLinesDropped", lambda: story.gateway.chat("gpt-4o", "no-such-key-at-all"))
    finally:
        story.gateway.reading.set()


def test_streams_that_begin_late(story):
    with story.under_way(20, "slow", "slow", stream=True):
        story.fires("WeirFirstTokenSlow", model="slow")


def test_redis_that_is_away(story):
    # Limits and the cache have a connection each, and either may be the first to notice.
    story.expected.add("WeirSharedCacheAway")
    story.redis.close()
    story.until_fires("WeirLimiterOutage", lambda: story.gateway.chat("gpt-4o", ALICE), of="limits")
    story.fires("WeirSharedCacheAway", of="cache")
    story.redis.enter_context(scene.redis(story.redis_port))
    story.ends("WeirLimiterOutage")
    story.ends("WeirSharedCacheAway")


def test_a_queue_that_is_full(story):
    with story.under_way(6, "narrow", "hanging"):
        story.fires("WeirQueueSaturated", upstream="narrow")
    story.ends("WeirQueueSaturated")


def test_a_queue_of_the_local_model_that_is_full(story):
    stop = threading.Event()

    def ask():
        while not stop.is_set():
            with contextlib.suppress(OSError, http.client.HTTPException):
                story.gateway.chat("poet", ALICE, "写诗", max_tokens=200)

    # Sixteen are computed together, and eighteen wait.
    askers = [threading.Thread(target=ask, daemon=True) for _ in range(34)]
    for asker in askers:
        asker.start()
    try:
        story.fires("WeirQueueSaturated", upstream="local")
    finally:
        stop.set()
        for asker in askers:
            asker.join(60)
    story.ends("WeirQueueSaturated")


def test_a_ledger_with_too_much_open(story):
    with story.under_way(55, "hanging", "hanging"):
        story.fires("WeirLedgerBacklog")
    story.ends("WeirLedgerBacklog")


def test_a_credential_that_is_refused(story):
    # It is the only one that this upstream has.
    story.expected.add("WeirUpstreamDown")
    story.upstreams.ways["refusing"] = "refusing"
    story.until_fires("WeirUpstreamCredentialRefused", lambda: story.gateway.chat("refused", BOB), upstream="refusing")
    story.fires("WeirUpstreamDown", upstream="refusing")


def test_an_endpoint_that_is_ejected(story):
    story.upstreams.ways["pair-two"] = "failing"
    story.until_fires("WeirUpstreamEjected", lambda: story.gateway.chat("pair", BOB), upstream="pair")


def test_an_upstream_that_is_down(story):
    story.upstreams.ways["gone"] = "failing"
    story.until_fires("WeirUpstreamDown", lambda: story.gateway.chat("gone", BOB, max_tokens=2), upstream="gone")


def test_failures_that_clients_see(story):
    story.expected.add("WeirErrorBudgetBurnsSlowly")
    story.until_fires("WeirErrorBudgetBurnsFast", lambda: story.gateway.chat("failing", BOB), job="weir")
    story.fires("WeirErrorBudgetBurnsSlowly", job="weir")


def test_a_hedge_and_a_model_without_a_price_are_no_alerts(story):
    asked = "sum (increase(weir_hedges_total[1m])) > 0 and on () sum (increase(weir_unpriced_requests_total[1m])) > 0"

    def is_asked():
        story.gateway.chat("hedged", BOB, stream=True)
        story.gateway.chat("narrow", BOB)
        return story.prometheus.now(asked)

    story.upstreams.ways["slow"] = "slow"
    eventually("a hedge, and a model without a price", is_asked)
    assert not story.unexpected()


def test_every_panel_has_something_to_show(story):
    empty = []
    for place, dashboard, panel in panels():
        everybody, one = selections(story, dashboard)
        for target, result in answers(story, panel, everybody):
            shown(place, target, result)
            if not result:
                empty.append(f"{place}, all: {target['expr']}")
        found = set()
        for values in one:
            for target, result in answers(story, panel, values):
                shown(place, target, result)
                if result:
                    found.add(target["refId"])
            if len(found) == len(panel["targets"]):
                break
        empty += [f"{place}, one: {target['expr']}" for target in panel["targets"] if target["refId"] not in found]
    assert not empty, "\n".join(empty)


def test_every_rule_that_records_has_something_to_record(story):
    for rule in records():
        result = story.prometheus.now(promql.hurried(rule["expr"]))
        assert result and story.prometheus.now(rule["record"]), rule["record"]
        assert all(set(series["metric"]) == level(rule["record"]) for series in result), rule["record"]


def test_more_series_than_there_may_be(story):
    numbers = iter(range(10**6))
    story.until_fires(
        "WeirSeriesFolded",
        lambda: story.gateway.chat("gpt-4o", f"secret-of-key-{next(numbers) % MANY}"),
        metric="weir_requests_total",
    )


def test_nothing_is_asked_for_that_the_gateway_does_not_declare(story):
    asked = [target["expr"] for _, _, panel in panels() for target in panel["targets"]] + [
        rule["expr"] for rule in rules()
    ]
    assert not undeclared_by(story, asked)


def test_a_ledger_that_cannot_be_written(story):
    story.expected.add("WeirLedgerRefusing")
    ledger = story.folder / "data/weir.db"
    ledger.rename(story.folder / "away.db")
    story.until_fires("WeirLedgerFailing", lambda: story.gateway.chat("gpt-4o", ALICE))
    story.until_fires("WeirLedgerRefusing", lambda: story.gateway.chat("gpt-4o", ALICE))
    (story.folder / "away.db").rename(ledger)
    story.ends("WeirLedgerFailing")


def test_a_gateway_that_is_gone(story):
    story.gateway.child.kill()
    story.fires("WeirDown", job="weir")
    assert story.expected == {rule["alert"] for rule in alerts()} - OUT_OF_REACH, "an alert was never brought about"
