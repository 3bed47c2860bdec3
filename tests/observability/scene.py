"""A gateway with everything that it leans on, each a real process on a free port of 127.0.0.1: Redis, Prometheus, and upstreams
that do as they are told. Whatever was started is ended by its id, also when a test fails."""

import contextlib
import functools
import http.client
import http.server
import json
import os
import pathlib
import queue
import re
import signal
import socket
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import promql

GATEWAY = pathlib.Path(os.environ.get("WEIR_BIN", promql.ROOT / "target/debug/weir"))
TOKEN = "admin-token-of-the-tests"
PATIENCE = 40


def eventually(what, condition, patience=PATIENCE):
    """Waits until the condition holds, and returns what it returned. It may raise AssertionError to say what is missing."""
    until, last = time.monotonic() + patience, None
    while time.monotonic() < until:
        try:
            if value := condition():
                return value
        except (AssertionError, OSError, http.client.HTTPException) as error:
            last = error
        time.sleep(0.1)
    raise AssertionError(f"never: {what} ({last})")


def free_port():
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        return it.getsockname()[1]


@contextlib.contextmanager
def process(*command, **more):
    """A child that is there for as long as the block."""
    child = subprocess.Popen([str(part) for part in command], **more)
    try:
        yield child
    finally:
        # One that was stopped would not hear the end.
        for sign in (signal.SIGCONT, signal.SIGTERM):
            with contextlib.suppress(ProcessLookupError):
                child.send_signal(sign)
        try:
            child.wait(5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


# === Upstreams ===


class Upstreams:
    """Any number of services at one port, told apart by the first part of the path; each does as `ways` says of it:

    ok; failing (500); refusing (401); slow (the first token comes after six seconds); hanging (nothing comes until it does otherwise).
    """

    def __init__(self):
        self.ways = {}
        self.stopping = threading.Event()
        upstreams = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                name, path = self.path[1:].split("/", 1)
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    upstreams.answer(self, name, path, body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def url(self, name):
        return f"http://127.0.0.1:{self.server.server_port}/{name}/v1"

    def stop(self):
        self.stopping.set()
        self.server.shutdown()
        self.server.server_close()

    def answer(self, request, name, path, body):
        while self.ways.get(name) == "hanging" and not self.stopping.wait(0.1):
            pass
        way = self.ways.get(name, "ok")
        failures = {"failing": 500, "refusing": 401}
        if way in failures:
            return self.plain(request, failures[way], {"error": {"message": way, "type": "x", "code": None}})
        if path.endswith("embeddings"):
            usage = {"prompt_tokens": 8, "total_tokens": 8}
            data = [{"object": "embedding", "index": 0, "embedding": [0.5]}]
            return self.plain(request, 200, {"object": "list", "data": data, "model": body["model"], "usage": usage})
        usage = {
            "prompt_tokens": 100, "completion_tokens": 40, "total_tokens": 140,
            "prompt_tokens_details": {"cached_tokens": 30}, "completion_tokens_details": {"reasoning_tokens": 10},
        }  # fmt: skip
        head = {"id": "chatcmpl-1", "created": 1, "model": body["model"]}
        if not body.get("stream"):
            message = {"role": "assistant", "content": "x" * body.get("size", 20)}
            choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
            return self.plain(request, 200, {**head, "object": "chat.completion", "choices": choices, "usage": usage})
        request.send_response(200)
        request.send_header("content-type", "text/event-stream")
        request.send_header("transfer-encoding", "chunked")
        request.end_headers()
        if way == "slow":
            self.stopping.wait(6)

        def event(text):
            request.wfile.write(f"{len(text) + 8:x}\r\ndata: {text}\n\n\r\n".encode())
            request.wfile.flush()

        for word in ("one ", "two ", "three ", "four"):
            delta = [{"index": 0, "delta": {"content": word}, "finish_reason": None}]
            event(json.dumps({**head, "object": "chat.completion.chunk", "choices": delta}))
        end = [{"index": 0, "delta": {}, "finish_reason": "stop"}]
        event(json.dumps({**head, "object": "chat.completion.chunk", "choices": end}))
        event(json.dumps({**head, "object": "chat.completion.chunk", "choices": [], "usage": usage}))
        event("[DONE]")
        request.wfile.write(b"0\r\n\r\n")
        return None

    def plain(self, request, status, value):
        text = json.dumps(value).encode()
        request.send_response(status)
        request.send_header("content-type", "application/json")
        request.send_header("content-length", str(len(text)))
        request.end_headers()
        request.wfile.write(text)


# === The gateway ===


class Gateway:
    """The binary, its configuration in a folder, and what it logs."""

    def __init__(self, folder, child):
        self.folder, self.child = folder, child
        self.lines = queue.Queue()
        self.reading = threading.Event()
        self.reading.set()
        self.data = self.admin = None
        threading.Thread(target=self._read, daemon=True).start()
        eventually("the gateway listens", self._listening)

    def _read(self):
        for line in self.child.stderr:
            self.lines.put(line)
            # Whoever reads the log of a gateway may be slow, or hang.
            self.reading.wait()

    def _listening(self):
        if self.child.poll() is not None:
            raise RuntimeError("".join(self.lines.queue))
        while not self.lines.empty():
            line = json.loads(self.lines.get())
            fields = {**line, **line.get("fields", {})}
            if fields.get("listener") in ("data", "admin"):
                setattr(self, fields["listener"], urllib.parse.urlsplit(f"//{fields['address']}").port)
        return self.data and self.admin

    def connection(self):
        return http.client.HTTPSConnection("127.0.0.1", self.data, timeout=60, context=unverified())

    def ask(self, path, body, key, stream=False, connection=None):
        """One request; returns its status once the answer is whole."""
        own = connection or self.connection()
        try:
            text = json.dumps({**body, "stream": True} if stream else body)
            own.request("POST", path, text, {"authorization": f"Bearer {key}", "content-type": "application/json"})
            answer = own.getresponse()
            answer.read()
            return answer.status
        finally:
            if connection is None:
                own.close()

    def chat(self, model, key, text="hello", stream=False, **more):
        body = {"model": model, "messages": [{"role": "user", "content": text}], **more}
        return self.ask("/v1/chat/completions", body, key, stream)

    def metrics(self):
        """Every metric that has a series: {name: its labels}, `le` left out."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        declared = {line.split()[2]: set() for line in text.splitlines() if line.startswith("# TYPE ")}
        for line in text.splitlines():
            if line and not line.startswith("#"):
                name, labels = promql.SELECTOR.match(line).groups()
                metric, _ = promql.base(name, declared)
                declared[metric] |= {
                    label for label, _ in re.findall(r'(\w+)=("(?:[^"\\]|\\.)*")', labels or "")
                } - {"le"}
        return declared

    def write(self, text):
        """Replaces the configuration, and has it read."""
        beside = self.folder / "weir.toml.new"
        beside.write_text(text)
        beside.rename(self.folder / "weir.toml")
        self.reload()

    def reload(self):
        self.child.send_signal(signal.SIGHUP)


def certificate(folder, days):
    """Puts a certificate that is good for so many days where the gateway serves it from."""
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost"
        f" -days {days} -keyout {folder}/new.key -out {folder}/new.crt"
    )
    subprocess.run(command.split(), check=True, capture_output=True)
    for end in ("key", "crt"):
        (folder / f"new.{end}").rename(folder / f"tls.{end}")


@functools.cache
def unverified():
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@contextlib.contextmanager
def gateway(folder, text):
    certificate(folder, 90)
    (folder / "weir.toml").write_text(text)
    environment = {**os.environ, "WEIR_DATA_DIR": str(folder / "data")}
    command = (GATEWAY, "serve", "--config", folder / "weir.toml")
    with process(*command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as child:
        it = Gateway(folder, child)
        try:
            yield it
        finally:
            it.reading.set()


@contextlib.contextmanager
def redis(port):
    command = (
        "redis-server",
        "--port",
        port,
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--appendonly",
        "no",
        "--loglevel",
        "warning",
    )
    with process(*command, stdout=subprocess.DEVNULL) as child:
        eventually("Redis listens", lambda: socket.create_connection(("127.0.0.1", port), 1).close() is None)
        yield child


# === Prometheus ===


class Prometheus:
    def __init__(self, port):
        self.url = f"http://127.0.0.1:{port}"

    def get(self, path, **parameters):
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters, doseq=True)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error

    def now(self, expression):
        return self.get("query", query=expression)["result"]

    def course(self, expression, seconds=120, step=2):
        now = time.time()
        return self.get("query_range", query=expression, start=now - seconds, end=now, step=step)["result"]

    def firing(self):
        """Every alert that fires: (its name, its labels)."""
        every = self.get("alerts")["alerts"]
        return [(each["labels"]["alertname"], each["labels"]) for each in every if each["state"] == "firing"]

    def values(self, query):
        """What Grafana offers for a variable whose query is `label_values(SERIES, LABEL)`."""
        found, label = re.fullmatch(r"label_values\((.*), (\w+)\)", query).groups()
        return self.get(f"label/{label}/values", **{"match[]": found})


@contextlib.contextmanager
def prometheus(folder, target):
    """Looks twice a second, by the repository's rules in a hurry."""
    for path in promql.RULES:
        (folder / path.name).write_text(promql.hurried(path.read_text()))
    config = {
        "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "1s"},
        "rule_files": ["*.rules.yml"],
        "scrape_configs": [{"job_name": "weir", "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]}],
    }
    # JSON is YAML.
    (folder / "prometheus.yml").write_text(json.dumps(config))
    port = free_port()
    command = (
        "prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn",
    )  # fmt: skip
    with process(*command) as child:
        it = Prometheus(port)

        def is_ready():
            if child.poll() is not None:
                raise RuntimeError("Prometheus has ended")
            return urllib.request.urlopen(f"{it.url}/-/ready", timeout=2).status == 200

        eventually("Prometheus is ready", is_ready)
        yield it
