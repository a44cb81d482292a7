"""A Hugging Face hub on this machine, for tests: repositories in memory, behind the part of its interface in use."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote


class Repository:
    """Files of one commit, the branches that stand for it, and whether access must be asked for."""

    def __init__(self, files: dict[str, bytes], branches: tuple[str, ...] = ("main",), gated: bool = False):
        self.files, self.branches, self.gated = files, branches, gated
        self.commit = hashlib.sha1(b"".join(files.values())).hexdigest()

    @classmethod
    def of(cls, folder: Path, **options) -> "Repository":
        paths = [path for path in folder.rglob("*") if path.is_file()]
        return cls({path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}, **options)


@contextmanager
def serve(repositories: dict[str, Repository]) -> Iterator[tuple[str, list[str]]]:
    """The hub's address and the list of paths asked for; keys are models/ORG/NAME and datasets/ORG/NAME."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET(body=False)

        def do_GET(self, body: bool = True) -> None:
            path = unquote(self.path.partition("?")[0]).lstrip("/")
            asked.append(path)
            api = path.startswith("api/")
            path = path.removeprefix("api/")
            if not path.startswith(("models/", "datasets/")):
                path = f"models/{path}"
            kind, organisation, name, verb, *rest = path.split("/")
            repository = repositories.get(f"{kind}/{organisation}/{name}")
            if repository is None:
                return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"}, body)
            revisions = (*repository.branches, repository.commit)
            tail = "/".join(rest)
            revision = next((r for r in revisions if tail == r or tail.startswith(f"{r}/")), None)
            if revision is None:
                return self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, body)
            file = tail[len(revision) :].strip("/")
            if api and verb == "revision":
                siblings = [{"rfilename": name} for name in repository.files]
                facts = {"id": f"{organisation}/{name}", "sha": repository.commit, "siblings": siblings}
                return self.answer(
                    200, json.dumps(facts).encode(), {"Content-Type": "application/json"}, body
                )
            if api and verb == "tree":
                tree = [
                    {
                        "type": "file",
                        "path": name,
                        "size": len(content),
                        "oid": hashlib.sha1(content).hexdigest(),
                    }
                    for name, content in repository.files.items()
                ]
                return self.answer(200, json.dumps(tree).encode(), {"Content-Type": "application/json"}, body)
            if repository.gated:
                return self.answer(403, b"{}", {"X-Error-Code": "GatedRepo"}, body)
            if file not in repository.files:
                return self.answer(404, b"{}", {"X-Error-Code": "EntryNotFound"}, body)
            content = repository.files[file]
            headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": repository.commit}
            return self.answer(200, content, headers, body)

        def answer(self, status: int, content: bytes, headers: dict[str, str], body: bool) -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(key, value)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, *_) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
