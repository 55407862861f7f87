"""An exporter process for many queues of many brokers: what one exporter per broker would say, in one process.

Speaks the contract of our queue exporter (docs/contract.md). `GET /metrics/NAMESPACE` is scraped by Prometheus; the
bench changes a depth with `POST /depth/NAMESPACE/QUEUE/N` and asks with `GET /served/NAMESPACE` when a scrape last
carried it. Standard library only.
"""

from __future__ import annotations

import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

SECRET = "broker/url"
"""Secret and key of every broker, as the pools of the bench name it."""


class Exporter(BaseHTTPRequestHandler):
    """All brokers' queues, one path for each namespace."""

    protocol_version = "HTTP/1.1"
    depths: ClassVar[dict[str, dict[str, int]]] = {}
    served: ClassVar[dict[str, float]] = {}
    """Unix time of the last scrape of each namespace."""
    lock = threading.Lock()

    def do_GET(self) -> None:
        _, kind, namespace = self.path.split("/")
        with self.lock:
            if kind == "served":
                self._answer(str(self.served.get(namespace, 0.0)))
                return
            broker = f"{namespace}/{SECRET}"
            lines = [f'greenfleet_queue_up{{broker="{broker}"}} 1']
            for queue, depth in self.depths.get(namespace, {}).items():
                labels = f'{{broker="{broker}",queue="{queue}"}}'
                lines.append(f"greenfleet_queue_messages_ready{labels} {depth}")
                lines.append(f"greenfleet_queue_messages_unacked{labels} 0")
            self.served[namespace] = time.time()
        self._answer("\n".join(lines) + "\n")

    def do_POST(self) -> None:
        _, _, namespace, queue, depth = self.path.split("/")
        with self.lock:
            self.depths.setdefault(namespace, {})[queue] = int(depth)
        self._answer(str(time.time()))

    def _answer(self, text: str) -> None:
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Silent."""


class Server(ThreadingHTTPServer):
    """One thread for each connection."""

    def handle_error(self, request: object, client_address: object) -> None:
        """A scrape that was given up is Prometheus' business."""


if __name__ == "__main__":
    Server(("127.0.0.1", int(sys.argv[1])), Exporter).serve_forever()
