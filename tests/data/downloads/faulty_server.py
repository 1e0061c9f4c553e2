"""An HTTP server on this machine that serves files, in parts too, and breaks off when told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class FaultyServer:
    """What is served, and how.

    Attributes:
        files: The content of each path.
        requests: The path and the `Range` of each request that came.
        breaks: The numbers of bytes after which the next answers end too early.
        knows_ranges: Whether a request for the rest of a file is understood.
        address: The address, without a slash at the end.
    """

    files: dict[str, bytes]
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    breaks: list[int] = field(default_factory=list)
    knows_ranges: bool = True
    address: str = ""


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[FaultyServer]:
    """A server for these files, which ends with the block."""
    state = FaultyServer(files)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.requests.append((self.path, wanted))
            content = state.files.get(self.path)
            if content is None:
                self.send_error(404)
                return
            first = 0
            if wanted is not None and state.knows_ranges:
                first = int(wanted.removeprefix("bytes=").removesuffix("-"))
                if first >= len(content):
                    self.send_error(416)
                    return
                self.send_response(206)
                self.send_header(
                    "Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}"
                )
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(content) - first))
            self.end_headers()
            end = first + state.breaks.pop(0) if state.breaks else len(content)
            self.wfile.write(content[first:end])

        def log_message(self, format: str, *args: object) -> None:
            """Nothing is printed."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
