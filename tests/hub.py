"""A local hub with the newest revision of one data set or model. The hub counts its requests."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

REVISION = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Serves the files of a folder as the data set or model `name`.

    kind: datasets or models. busy: number of first requests that are answered with 429. requests: the requests so
    far, as method and path.
    """

    def __init__(self, folder: Path, name: str = "someone/xnli", busy: int = 0, kind: str = "datasets"):
        self.folder, self.name, self.busy, self.kind = folder, name, busy, kind
        self.revision = REVISION
        self.requests: list[str] = []
        self.url = ""

    def answer(  # noqa: PLR0911 - one return for each kind of request
        self, method: str, path: str, body: bytes
    ) -> tuple[int, bytes, dict[str, str]]:
        """Return status, content and headers of the answer to a request."""
        self.requests.append(f"{method} {path}")
        if self.busy > 0:
            self.busy -= 1
            return 429, b"too many requests", {}
        api = f"/api/{self.kind}/{self.name}"
        files = f"/{self.name}/resolve/" if self.kind == "models" else f"/{self.kind}/{self.name}/resolve/"
        if path in (api, f"{api}/revision/main", f"{api}/revision/{self.revision}"):
            siblings = [{"rfilename": name} for name in self._files()]
            return 200, json.dumps({"id": self.name, "sha": self.revision, "siblings": siblings}).encode(), {}
        if path.startswith(f"{api}/paths-info/"):
            paths = json.loads(body)["paths"]
            return 200, json.dumps([self._entry(x) for x in paths if (self.folder / x).exists()]).encode(), {}
        if path.startswith(f"{api}/tree/"):
            inside = path.removeprefix(f"{api}/tree/").partition("/")[2]
            if not (self.folder / inside).is_dir():
                return 404, b"{}", {"X-Error-Code": "EntryNotFound"}
            found = [self._entry(str(x.relative_to(self.folder))) for x in sorted((self.folder / inside).iterdir())]
            return 200, json.dumps(found).encode(), {}
        if path.startswith(files):
            name = path.removeprefix(files).partition("/")[2]
            if (file := self.folder / name).is_file():
                content = file.read_bytes()
                etag = hashlib.sha1(content).hexdigest()
                return 200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": self.revision}
            return 404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": self.revision}
        return 404, b"{}", {}

    def _files(self) -> list[str]:
        return [str(x.relative_to(self.folder)) for x in sorted(self.folder.rglob("*")) if x.is_file()]

    def _entry(self, name: str) -> dict[str, object]:
        there = self.folder / name
        if there.is_dir():
            return {"type": "directory", "path": name, "oid": "0" * 40, "size": 0}
        oid = hashlib.sha1(there.read_bytes()).hexdigest()
        return {"type": "file", "path": name, "oid": oid, "size": there.stat().st_size}


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serve the hub at `hub.url`, an address on loopback."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, content, headers = hub.answer(self.command, unquote(urlsplit(self.path).path), body)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_HEAD = do_POST = _answer

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
