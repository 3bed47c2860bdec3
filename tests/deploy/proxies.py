"""nginx and HAProxy with the configurations of deploy/, and Weirs behind them, on ports of this machine's loopback."""

import http.client
import os
import signal
import socket
import ssl
import subprocess
import time
from contextlib import ExitStack, contextmanager

from tools import DEPLOY, KUBERNETES, WEIR, complaint

# Long enough for a busy machine: what takes so long has failed.
PATIENCE = 20

NGINX = (DEPLOY / "nginx/weir.conf").read_text()
HAPROXY = (DEPLOY / "haproxy/weir.cfg").read_text()
TELEMETRY = (KUBERNETES / "base/telemetry.cfg").read_text()

KEY = "key-of-the-tests"
ADMIN_TOKEN = "admin-token-of-the-tests"
GATEWAY = """
[server]
listen = "{host}:{port}"
workers = 1
drain_timeout = "60s"
[admin]
listen = "{host}:{admin}"
token = "{token}"
[[upstream]]
name = "scripted"
kind = "openai"
base_url = "http://127.0.0.1:{upstream}/v1"
[[key]]
name = "tests"
secret = "{key}"
"""


def free_port(host="127.0.0.1"):
    with socket.create_server((host, 0)) as server:
        return server.getsockname()[1]


def wait_for(is_so, what):
    """Waits for a condition; whatever is asked may refuse until then."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            if is_so():
                return
        except OSError:
            pass
        time.sleep(0.02)
    raise AssertionError(f"in {PATIENCE} s not: {what}")


@contextmanager
def running(command, log, env=None):
    """A program that ends with the block; what it says goes to a file."""
    with open(log, "wb") as output:
        child = subprocess.Popen([str(word) for word in command], stdout=output, stderr=output,
                                 env={"PATH": os.environ["PATH"], **(env or {})})
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def listens(host, port):
    with socket.create_connection((host, port), timeout=1):
        return True


class Entry:
    """Where clients connect."""

    def __init__(self, port, host="127.0.0.1", authorities=None):
        self.host, self.port = host, port
        self.tls = ssl.create_default_context(cafile=authorities) if authorities else None

    def connect(self, timeout=PATIENCE):
        if self.tls:
            return http.client.HTTPSConnection(self.host, self.port, timeout=timeout, context=self.tls)
        return http.client.HTTPConnection(self.host, self.port, timeout=timeout)

    def socket(self):
        raw = socket.create_connection((self.host, self.port), timeout=PATIENCE)
        return self.tls.wrap_socket(raw, server_hostname=self.host) if self.tls else raw

    def ask(self, method, path, body=None, **headers):
        """Returns the status, the headers and the body of an answer."""
        connection = self.connect()
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()


def changed(text, changes):
    for old, new in changes.items():
        assert old in text, f"{old!r} is not there to be replaced"
        text = text.replace(old, new)
    return text


def nginx_files(folder, port, servers, changes):
    """Writes what nginx reads: the snippet with addresses of the tests, within the least that makes it whole."""
    complaint("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
              "-keyout", folder / "tls.key", "-out", folder / "tls.crt", "-subj", "/CN=tests", "-addext",
              "subjectAltName=IP:127.0.0.1")
    snippet = changed(changed(NGINX, changes), {
        "10.0.0.11:8080": servers[0], "10.0.0.12:8080": servers[1],
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl", "/etc/nginx/tls": str(folder),
    })
    (folder / "weir.conf").write_text(snippet)
    temporary = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in
                        ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"])
    user = "user root;\n" if os.getuid() == 0 else ""
    main = folder / "nginx.conf"
    main.write_text(f"{user}daemon off;\npid {folder}/nginx.pid;\nerror_log stderr;\nworker_processes 1;\n"
                    f"events {{}}\nhttp {{\naccess_log off;\n{temporary}include {folder}/weir.conf;\n}}\n")
    return main


@contextmanager
def nginx(folder, servers, changes=None, check_port=None):
    port = free_port()
    main = nginx_files(folder, port, servers, changes or {})
    with running(["nginx", "-c", main, "-e", "stderr"], folder / "nginx.log") as child:
        wait_for(lambda: listens("127.0.0.1", port), "nginx listens")
        yield Entry(port, authorities=folder / "tls.crt")
        # The master ends its workers.
        child.terminate()
        child.wait(PATIENCE)


@contextmanager
def haproxy(folder, servers, changes=None, check_port=None):
    port = free_port()
    file = folder / "haproxy.cfg"
    file.write_text(changed(HAPROXY, changes or {}))
    env = {"WEIR_BIND": f"127.0.0.1:{port}", "WEIR_1": servers[0], "WEIR_2": servers[1],
           "WEIR_CHECK_PORT": str(check_port or servers[0].split(":")[1])}
    with running(["haproxy", "-db", "-f", file], folder / "haproxy.log", env):
        wait_for(lambda: listens("127.0.0.1", port), "HAProxy listens")
        yield Entry(port)


PROXIES = {"nginx": nginx, "haproxy": haproxy}


class Gateway:
    """A Weir, and beside it what opens its telemetry."""

    def __init__(self, child, host, port, admin, telemetry):
        self.child, self.server = child, f"{host}:{port}"
        self.admin, self.telemetry = Entry(admin, host), Entry(telemetry, host)

    def in_flight(self):
        lines = self.telemetry.ask("GET", "/metrics")[2].decode().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith("weir_requests_in_flight "))

    def stop(self):
        self.child.send_signal(signal.SIGTERM)


@contextmanager
def gateway(folder, host, upstream, telemetry_port):
    port, admin = free_port(host), free_port(host)
    config = folder / "weir.toml"
    config.write_text(GATEWAY.format(host=host, port=port, admin=admin, token=ADMIN_TOKEN, upstream=upstream, key=KEY))
    shown = folder / "telemetry.cfg"
    shown.write_text(TELEMETRY)
    env = {"TELEMETRY_BIND": f"{host}:{telemetry_port}", "WEIR_ADMIN": f"{host}:{admin}"}
    with ExitStack() as stack:
        child = stack.enter_context(running([WEIR, "serve", "--config", config], folder / "weir.log",
                                            {"WEIR_DATA_DIR": str(folder / "data")}))
        stack.enter_context(running(["haproxy", "-db", "-f", shown], folder / "telemetry.log", env))
        started = Gateway(child, host, port, admin, telemetry_port)
        wait_for(lambda: started.telemetry.ask("GET", "/readyz")[0] == 200, "the gateway is ready")
        yield started


@contextmanager
def two_gateways(folder, upstream):
    """Two of them, on addresses of their own, so that both show their telemetry on one port."""
    with ExitStack() as stack:
        port = free_port("127.0.0.1")
        found = []
        for name, host in [("one", "127.0.0.1"), ("two", "127.0.0.2")]:
            (folder / name).mkdir()
            found.append(stack.enter_context(gateway(folder / name, host, upstream, port)))
        yield found
