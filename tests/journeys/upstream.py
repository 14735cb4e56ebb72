"""The server behind the HTTP tools of the journeys: does by its path what the other styles' bodies do."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.journeys import wares


class Handler(BaseHTTPRequestHandler):
    """Answers as the outcome in the path asks."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        """Note the run, wait where that is asked, answer."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        outcome = self.path.strip("/")
        wares.note(asked["mark"])
        if wares.waits(outcome, asked["amount"]):
            wares.wait(asked["mark"])
        if outcome in ("upstream_failed", "circuit_open"):
            return self._answer(503, {"problem": "away"}, {"Retry-After": "3"})
        if outcome == "secrets":
            return self._answer(200, {"sent": f"key={self.headers['X-Key']}"})
        if outcome == "big":
            return self._answer(200, {"text": "x" * wares.BIG})
        return self._answer(200, {"amount": asked["amount"], "nothing": None, "words": wares.WORDS})

    def _answer(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        self.send_response_only(status)
        for name, text in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            self.wfile.write(body)
        except OSError:  # who asked has left, which is what some journeys are about
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def upstream() -> Iterator[int]:
    """The server's port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="upstream")
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
