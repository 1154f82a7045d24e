"""What is asked of each cache. A probe says what it saw in a few words, each with paths of its own."""

import functools
import http.client
import time

from origin import PATIENCE

TYPE = {"Content-Type": "application/json"}
WRONG = "**{}**"


class Client:
    """Requests through one cache, to an origin that counts them."""

    def __init__(self, port, origin):
        self.port, self.origin = port, origin

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)

    def ask(self, method, path, content=None, **fields):
        connection = self.connect()
        headers = {"Host": "shop.example", **{name.replace("_", "-"): value for name, value in fields.items()}}
        if content is not None:
            headers |= TYPE
        connection.request(method, path, content, headers)
        response = connection.getresponse()
        response.text = response.read().decode(errors="replace")
        connection.close()
        return response

    def is_kept(self, method, path, content=None, **fields):
        """Whether the second of two requests is answered from the cache."""
        bodies = [self.ask(method, path, content, **fields).text for _ in range(2)]
        return bodies[0] == bodies[1] and self.origin.calls(path.partition("?")[0]) == 1


    @functools.cached_property
    def query(self):
        """Whether QUERY reaches the origin; if not, what the cache answers."""
        response = self.ask("QUERY", "/arrives", "a")
        asked = [(asked.method, asked.content) for asked in self.origin.asked if asked.path == "/arrives"]
        return "yes" if asked == [("QUERY", b"a")] else f"no: {response.status}"


def query_arrives(client):
    return client.query


def query_kept(client):
    if client.query != "yes":
        return "-"
    return "yes" if client.is_kept("QUERY", "/query-kept", "a") else "no"


def query_content(client):
    """Whether each content has its own response, after GET and another content were stored."""
    answers = [client.ask(method, "/query-content", content).text for method, content in [("GET", None), ("QUERY", "a"), ("QUERY", "b")]]
    if client.query != "yes":
        return "-"
    return "yes" if answers[1].endswith("QUERY a") and answers[2].endswith("QUERY b") else WRONG.format("no")


def query_is_safe(client):
    """Whether a GET's response is there still after a QUERY."""
    assert client.is_kept("GET", "/query-safe")
    client.ask("QUERY", "/query-safe", "a")
    calls = client.origin.calls("/query-safe")
    client.ask("GET", "/query-safe")
    return "yes" if client.origin.calls("/query-safe") == calls else WRONG.format("no")


def no_vary_search(client):
    field = {"X_Say_No_Vary_Search": 'params=("utm")'}
    bodies = [client.ask("GET", f"/nvs?id=1&utm={utm}", **field).text for utm in "ab"]
    return "yes" if bodies[0] == bodies[1] else "no"


def incremental_request(client):
    """Whether any of a request's content arrives before the last piece is sent. What comes with the head, or behind it before the head
    was read, Varnish holds until more comes: so the first pieces come one after the other, as they do from a program that produces them."""
    connection = client.connect()
    connection.putrequest("POST", "/upload", skip_host=True)
    for name, value in [("Host", "shop.example"), ("Content-Length", "9"), ("Incremental", "?1"), *TYPE.items()]:
        connection.putheader(name, value)
    connection.endheaders()
    for piece in [b"one", b"two"]:
        time.sleep(0.3)
        connection.send(piece)
    begun, deadline = False, time.monotonic() + PATIENCE
    while not begun and time.monotonic() < deadline:
        begun = any(asked.path == "/upload" and asked.begun.is_set() for asked in list(client.origin.asked))
        time.sleep(0.02)
    connection.send(b"end")
    connection.getresponse().read()
    connection.close()
    return "yes" if begun else "no"


def incremental_response(client):
    """Whether the first piece of a response is there before the last one is made."""
    client.origin.released.clear()
    connection = client.connect()
    connection.request("GET", "/live", headers={"Host": "shop.example", "X-Slow": "1", "X-Say-Incremental": "?1"})
    connection.sock.settimeout(PATIENCE / 2)
    try:
        response = connection.getresponse()
        first = response.read1(3)
    except TimeoutError:
        first = b""
    client.origin.released.set()
    connection.close()
    return "yes" if first == b"one" else "no"


def incremental_kept(client):
    """Whether a live response is stored, and sent to later clients."""
    return "yes" if client.is_kept("GET", "/incremental", X_Say_Incremental="?1") else "no"


def cache_groups(client):
    group = {"X_Say_Cache_Groups": '"g"'}
    assert client.is_kept("GET", "/grouped", **group)
    client.ask("POST", "/other", "a", X_Say_Cache_Group_Invalidation='"g"')
    client.ask("GET", "/grouped", **group)
    return "yes" if client.origin.calls("/grouped") == 2 else "no"


def several_ranges(client):
    assert client.is_kept("GET", "/ranges")
    response = client.ask("GET", "/ranges", Range="bytes=0-1,4-4")
    where = "" if client.origin.calls("/ranges") == 1 else ", from the origin"
    is_parts = response.status == 206 and response.getheader("Content-Type", "").startswith("multipart/byteranges")
    return f"yes{where}" if is_parts else f"{response.status}{where}"


def cache_status(client):
    """Whether a hit says so by the field of RFC 9211."""
    client.ask("GET", "/status")
    field = client.ask("GET", "/status").getheader("Cache-Status") or ""
    return "yes" if "; hit" in field or ";hit" in field else "no"


PROBES = [
    ("QUERY (RFC 10008) reaches the application, with its content", query_arrives),
    ("its response is kept", query_kept),
    ("each content has its own", query_content),
    ("QUERY leaves what is kept for GET", query_is_safe),
    ("`No-Vary-Search`: one response for several queries", no_vary_search),
    ("`Incremental` (RFC 10036): a request passes while it comes in", incremental_request),
    ("a response passes while it comes in", incremental_response),
    ("an incremental response is kept", incremental_kept),
    ("`Cache-Groups` (RFC 9875): a write to one voids its group", cache_groups),
    ("several ranges of what is kept (RFC 9110, 15.3.7.2)", several_ranges),
    ("a hit says `Cache-Status` (RFC 9211)", cache_status),
]
