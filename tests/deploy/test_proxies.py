"""nginx and HAProxy as deploy/ configures them: their syntax, and what they do to streams, uploads, POSTs and WebSockets."""

import json
import ssl

import pytest
from proxies import (
    ADMIN_TOKEN,
    HAPROXY,
    KEY,
    PROXIES,
    TELEMETRY,
    changed,
    free_port,
    gateway,
    haproxy,
    nginx,
    nginx_files,
    two_gateways,
    wait_for,
)
from tools import complaint

from upstream import Upstream

CHAT = "/v1/chat/completions"
PLAIN = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]})
STREAM = json.dumps({"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]})
HANDSHAKE = ("GET /v1/realtime?model=m HTTP/1.1\r\nHost: tests\r\nAuthorization: Bearer {key}\r\nConnection: keep-alive, Upgrade\r\n"
             "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
JSON = {"content_type": "application/json", "authorization": f"Bearer {KEY}"}


# === What they say of their configuration ===


def nginx_says(folder, changes):
    main = nginx_files(folder, free_port(), ["127.0.0.1:1", "127.0.0.1:2"], changes)
    return complaint("nginx", "-t", "-c", main, "-e", "stderr")


def test_nginx_takes_its_configuration(tmp_path):
    assert nginx_says(tmp_path, {}) == ""


@pytest.mark.parametrize("changes", [{"proxy_buffering": "proxy_bufering"}, {"keepalive 256;": "keepalive 256"},
                                     {"$weir_connection;": "$weir_conection;"}])
def test_nginx_refuses_what_is_broken(tmp_path, changes):
    assert nginx_says(tmp_path, changes) != ""


def haproxy_says(text, folder):
    file = folder / "haproxy.cfg"
    file.write_text(text)
    return complaint("haproxy", "-c", "-f", file)


@pytest.mark.parametrize("text", [HAPROXY, TELEMETRY], ids=["balancer", "telemetry"])
def test_haproxy_takes_its_configuration(tmp_path, text):
    assert haproxy_says(text, tmp_path) == ""


@pytest.mark.parametrize("text, changes", [
    (HAPROXY, {"retry-on conn-failure": "retry-on bad-luck"}),
    (HAPROXY, {"default_backend weir": "default_backend wier"}),
    (TELEMETRY, {"timeout connect": "timeout conect"}),
])
def test_haproxy_refuses_what_is_broken(tmp_path, text, changes):
    assert haproxy_says(changed(text, changes), tmp_path) != ""


# === What they do ===


@pytest.fixture(params=PROXIES.values(), ids=PROXIES.keys())
def proxy(request):
    return request.param


@pytest.fixture
def upstreams():
    with Upstream() as one, Upstream() as two:
        yield one, two


def servers(upstreams):
    return [f"127.0.0.1:{upstream.port}" for upstream in upstreams]


def read_until(answer, word):
    got = b""
    while word not in got:
        data = answer.read1(65536)
        assert data, f"ended before {word!r}: {got!r}"
        got += data
    return got


def one_by_one(entry, upstreams, timeout=20):
    """Reads a stream whose next event leaves only when the one before has arrived."""
    connection = entry.connect(timeout)
    connection.request("POST", CHAT, STREAM, {"content-type": "application/json", "authorization": f"Bearer {KEY}"})
    for upstream in upstreams:
        upstream.chunks.release()
    answer = connection.getresponse()
    assert answer.status == 200
    first = read_until(answer, b'"one"')
    assert b'"two"' not in first
    for upstream in upstreams:
        upstream.chunks.release()
    read_until(answer, b'"two"')
    for upstream in upstreams:
        upstream.chunks.release()
    assert b"[DONE]" in answer.read()
    connection.close()


def test_events_arrive_one_by_one(proxy, upstreams, tmp_path):
    with proxy(tmp_path, servers(upstreams)) as entry:
        one_by_one(entry, upstreams)


def test_a_proxy_that_collects_is_found(upstreams, tmp_path):
    with nginx(tmp_path, servers(upstreams), {"proxy_buffering         off": "proxy_buffering on"}) as entry:
        with pytest.raises(TimeoutError):
            one_by_one(entry, upstreams, timeout=1)


def test_an_upload_leaves_while_it_comes(proxy, upstreams, tmp_path):
    with proxy(tmp_path, servers(upstreams)) as entry, entry.socket() as client:
        client.sendall(b"POST /v1/uploads HTTP/1.1\r\nHost: tests\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        wait_for(lambda: any(upstream.body_came.is_set() for upstream in upstreams), "the first bytes are through")
        client.sendall(b"4\r\nlast\r\n0\r\n\r\n")
        assert b" 200 " in client.recv(4096).splitlines()[0]


def breaks(entry, upstreams):
    """A POST whose connection the server closes without an answer. Returns how often it was sent."""
    try:
        assert entry.ask("POST", "/v1/breaks", PLAIN)[0] == 502
    except (ConnectionError, ssl.SSLError):
        pass  # the client's connection ends like that of the server: that, too, says that nobody knows
    return sum(upstream.count("/v1/breaks") for upstream in upstreams)


def test_a_post_is_sent_once(proxy, upstreams, tmp_path):
    with proxy(tmp_path, servers(upstreams)) as entry:
        assert breaks(entry, upstreams) == 1


@pytest.mark.parametrize("proxy, changes", [
    (nginx, {"proxy_next_upstream       error timeout;": "proxy_next_upstream error timeout non_idempotent;",
             "proxy_request_buffering off": "proxy_request_buffering on"}),
    (haproxy, {"retry-on conn-failure": "retry-on empty-response\n    option http-buffer-request"}),
], ids=["nginx", "haproxy"])
def test_a_proxy_that_sends_a_post_again_is_found(proxy, changes, upstreams, tmp_path):
    with proxy(tmp_path, servers(upstreams), changes) as entry:
        assert breaks(entry, upstreams) > 1


def test_who_cannot_be_reached_is_passed_over(proxy, upstreams, tmp_path):
    one, two = upstreams
    one.close()
    with proxy(tmp_path, servers(upstreams), check_port=two.port) as entry:
        for _ in range(4):
            assert entry.ask("POST", CHAT, PLAIN, **JSON)[0] == 200
    assert two.count(CHAT) == 4


def test_ids_go_through(proxy, upstreams, tmp_path):
    with proxy(tmp_path, servers(upstreams)) as entry:
        for sent in [{}, {"x_request_id": "the-clients-own"}, {}]:
            entry.ask("GET", "/v1/models", **sent)
    ids = [{name.lower(): value for name, value in headers.items()}["x-request-id"]
           for upstream in upstreams for _, _, headers in upstream.requests]
    assert len(set(ids)) == 3 and "the-clients-own" in ids and all(ids)


def test_large_heads_and_bodies_are_the_gateways_to_judge(proxy, upstreams, tmp_path):
    with proxy(tmp_path, servers(upstreams)) as entry:
        assert entry.ask("GET", "/v1/models", x_large="x" * 40_000)[0] == 200
        body = json.dumps({"model": "m", "input": "x" * 3_000_000})
        assert entry.ask("POST", CHAT, body, **JSON)[0] == 200


def speaks(entry):
    """Opens a WebSocket, sends something and gets it back."""
    with entry.socket() as client:
        client.sendall(HANDSHAKE.format(key=KEY).encode())
        head = b""
        while b"\r\n\r\n" not in head:
            data = client.recv(4096)
            if not data:
                return False
            head += data
        if b" 101 " not in head.splitlines()[0]:
            return False
        for frame in [b"\x81\x05hello", b"\x81\x03you"]:
            client.sendall(frame)
            got = b""
            while len(got) < len(frame):
                got += client.recv(4096)
            assert got == frame
        return True


def test_a_websocket_goes_through(proxy, upstreams, tmp_path):
    with proxy(tmp_path, servers(upstreams)) as entry:
        assert speaks(entry)


def test_a_proxy_without_upgrades_is_found(upstreams, tmp_path):
    with nginx(tmp_path, servers(upstreams), {"Upgrade      $http_upgrade;": 'Upgrade "";'}) as entry:
        assert not speaks(entry)


# === With the gateway behind them ===


def test_the_telemetry_shows_what_is_harmless_and_no_more(tmp_path):
    with Upstream() as upstream, gateway(tmp_path, "127.0.0.1", upstream.port, free_port()) as weir:
        ask = weir.telemetry.ask
        token = {"authorization": f"Bearer {ADMIN_TOKEN}"}
        assert weir.in_flight() == 0
        assert [ask("GET", path, host="weir.example.com")[0] for path in ["/metrics", "/healthz", "/readyz"]] == [200] * 3
        for path in ["/", "/admin/v1/keys", "/metrics/../admin/v1/keys", "//admin/v1/keys", "/healthz/"]:
            assert ask("GET", path, **token)[0] == 404, path
        assert ask("POST", "/metrics", **token)[0] == 405
        assert weir.admin.ask("GET", "/admin/v1/keys", **token)[0] == 200, "which the admin listener itself answers"


def test_streams_and_websockets_go_all_the_way(proxy, tmp_path):
    with Upstream() as upstream, two_gateways(tmp_path, upstream.port) as weirs:
        with proxy(tmp_path, [weir.server for weir in weirs], check_port=weirs[0].telemetry.port) as entry:
            one_by_one(entry, [upstream])
            assert speaks(entry)


def test_a_gateway_is_replaced_without_a_failure(proxy, tmp_path):
    with Upstream() as upstream, two_gateways(tmp_path, upstream.port) as weirs:
        with proxy(tmp_path, [weir.server for weir in weirs], check_port=weirs[0].telemetry.port) as entry:
            connection = entry.connect()
            connection.request("POST", CHAT, STREAM, {"content-type": "application/json", "authorization": f"Bearer {KEY}"})
            upstream.chunks.release()
            answer = connection.getresponse()
            read_until(answer, b'"one"')
            busy = next(weir for weir in weirs if weir.in_flight() == 1)
            busy.stop()
            wait_for(lambda: busy.telemetry.ask("GET", "/readyz")[0] == 503, "it says that it drains")
            for _ in range(6):
                assert entry.ask("POST", CHAT, PLAIN, **JSON)[0] == 200
            upstream.chunks.release()
            upstream.chunks.release()
            assert b"[DONE]" in answer.read()
            assert busy.child.wait(20) == 0
