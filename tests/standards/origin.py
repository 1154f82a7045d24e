"""The server behind the caches: it says what the request has it say, and knows what it was asked."""

import http.server
import threading


class Asked:
    """A request, as far as it has come in."""

    def __init__(self, method, path):
        self.method, self.path, self.content = method, path, b""
        self.begun, self.whole = threading.Event(), threading.Event()


class Origin:
    def __init__(self):
        self.asked, self.released = [], threading.Event()
        origin = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def answer(self):
                asked = Asked(self.command, self.path)
                origin.asked.append(asked)
                for piece in self.pieces():
                    asked.content += piece
                    asked.begun.set()
                asked.whole.set()
                origin.respond(self, asked)

            do_GET = do_HEAD = do_POST = do_QUERY = answer

            def pieces(self):
                """What the request has for content, as it comes in."""
                if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                    left = int(self.headers.get("Content-Length") or 0)
                    while left > 0 and (piece := self.rfile.read1(left)):
                        left -= len(piece)
                        yield piece
                    return
                while length := int(self.rfile.readline(), 16):
                    yield self.rfile.read(length)
                    self.rfile.readline()
                self.rfile.readline()

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            # Some caches open many connections at once.
            request_queue_size = 128
            daemon_threads = True

            def handle_error(self, *_):
                """A cache that closes its connection is none."""

        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def respond(self, request, asked):
        said = [(name[6:], value) for name, value in request.headers.items() if name.lower().startswith("x-say-")]
        body = f"{len(self.asked)} {asked.method} {asked.content.decode()}".encode()
        request.send_response(200)
        if not any(name.lower() == "cache-control" for name, _ in said):
            request.send_header("Cache-Control", "max-age=600")
        request.send_header("Content-Type", "text/plain")
        for name, value in said:
            request.send_header(name, value)
        if "X-Slow" not in request.headers:
            request.send_header("Content-Length", str(len(body)))
            request.end_headers()
            if asked.method != "HEAD":
                request.wfile.write(body)
            return
        # Its second piece waits until the client has the first one.
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        request.wfile.write(b"3\r\none\r\n")
        self.released.wait(PATIENCE)
        request.wfile.write(b"3\r\ntwo\r\n0\r\n\r\n")

    def calls(self, path):
        return sum(asked.path.partition("?")[0] == path for asked in list(self.asked))


# For how long something that is held back is waited for, in seconds.
PATIENCE = 2
