"""A server with the behaviours that proxies get wrong, scripted by path, and a record of what reached it."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

EVENT = 'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"%s"},"finish_reason":null}]}\n\n'
LAST = 'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
PLAIN = {
    "id": "c", "object": "chat.completion", "created": 1, "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
}


class Upstream:
    """Listens on a port of its own until it is closed; a context manager."""

    def __init__(self):
        self.requests = []
        self.chunks = threading.Semaphore(0)  # released by the test: one more chunk of a stream may leave
        self.body_came = threading.Event()  # the first bytes of an upload were seen
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def note(self):
                upstream.requests.append((self.command, self.path, dict(self.headers.items())))

            def whole_body(self):
                return self.rfile.read(int(self.headers.get("content-length", 0)))

            def answer(self, status, body, kind="application/json"):
                self.send_response(status)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self):
                if self.headers.get("upgrade", "").lower() == "websocket":
                    self.note()
                    return self.tunnel()
                if self.path != "/readyz":
                    self.note()
                self.answer(200, b'{"object":"list","data":[]}')

            def do_POST(self):
                self.note()
                if self.path.endswith("/breaks"):
                    self.whole_body()
                    self.close_connection = True
                    return None
                if self.path.endswith("/uploads"):
                    return self.upload()
                body = json.loads(self.whole_body() or b"{}")
                if body.get("stream"):
                    return self.stream()
                return self.answer(200, json.dumps(PLAIN).encode())

            def stream(self):
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.send_header("transfer-encoding", "chunked")
                self.end_headers()
                for text in [EVENT % "one", EVENT % "two", LAST]:
                    upstream.chunks.acquire(timeout=20)
                    data = text.encode()
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
                    self.wfile.flush()
                self.wfile.write(b"0\r\n\r\n")

            def upload(self):
                """Says when the first bytes of a chunked body are here, long before its last."""
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    self.rfile.read(size + 2)
                    upstream.body_came.set()
                self.rfile.readline()
                self.answer(200, b"{}")

            def tunnel(self):
                """Accepts, and sends back whatever comes."""
                self.send_response(101)
                self.send_header("connection", "upgrade")
                self.send_header("upgrade", "websocket")
                self.send_header("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
                self.end_headers()
                while data := self.connection.recv(4096):
                    self.connection.sendall(data)
                self.close_connection = True

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def count(self, path):
        """How many requests came for this path."""
        return sum(1 for _, asked, _ in self.requests if asked == path)

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
