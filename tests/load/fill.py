"""Asks for many URLs, each once: port, start, count, variants, connections, and how many requests may be on the way on each."""

import socket
import sys
import threading


def ask(port, paths, languages, ahead):
    with socket.create_connection(("127.0.0.1", port)) as connection:
        reader = connection.makefile("rb")
        waiting = 0

        def read_one():
            length = 0
            while (line := reader.readline()) not in (b"\r\n", b""):
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            reader.read(length)

        for path in paths:
            for language in languages:
                header = f"Accept-Language: {language}\r\n" if language else ""
                connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{header}\r\n".encode())
                waiting += 1
                if waiting >= ahead:
                    read_one()
                    waiting -= 1
        for _ in range(waiting):
            read_one()


def main():
    port, start, count, variants, connections, ahead = map(int, sys.argv[1:])
    languages = [f"l{number}" for number in range(variants)] or [None]
    workers = min(connections, count)
    parts = [range(start + 1 + worker, start + 1 + count, workers) for worker in range(workers)]
    threads = [
        threading.Thread(target=ask, args=(port, (f"/v/{number}" for number in part), languages, ahead)) for part in parts
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
