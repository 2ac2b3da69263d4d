"""A Hub on loopback, for the real client libraries: repos with commits, branches, tags and pull requests on disk.

It answers what `huggingface_hub` and `datasets` ask of the real one, with the same codes and headers: repos are
created, files are announced, sent to large file storage and committed, listed and downloaded in ranges; private repos
are hidden; tokens have permissions. Faults can be injected: answers such as 429 and 500, connections that are cut.
"""

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

from helpers.hub_state import Commit, Entry, Fault, Pull, Refusal, Repo, Request, User
from helpers.hub_xet import XetStorage

_LARGE = re.compile(r".*\.(parquet|safetensors|png)")
_TIME = "2026-01-01T00:00:00.000Z"


class HubServer:
    """The Hub: its state, its injected faults and the requests that it received."""

    def __init__(self, folder: Path) -> None:
        self.store = folder
        self.users: dict[str, User] = {}  # by token
        self.repos: dict[tuple[str, str], Repo] = {}
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.xet: XetStorage | None = None  # where large files are, unless they are in `store`
        self.lock = threading.RLock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    @contextlib.contextmanager
    def running(self) -> Iterator["HubServer"]:
        """Serve until the end of the block."""
        self.store.mkdir(parents=True, exist_ok=True)
        thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._http.shutdown()
            self._http.server_close()

    def asked(self, match: str) -> list[Request]:
        """Return the requests whose `METHOD /path` matches."""
        return [r for r in self.requests if re.search(match, f"{r.method} {r.path}")]

    def create(self, kind: str, name: str, private: bool = False) -> Repo:
        """Create a repo with an initial commit, as the Hub does."""
        repo = self.repos[kind, name] = Repo(kind, name, private)
        files = {".gitattributes": self.put(b"*.parquet filter=lfs\n")}
        repo.branches["main"] = repo.add("initial commit", files).oid
        return repo

    def put(self, content: bytes) -> Entry:
        """Store a file in git."""
        oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        (self.store / oid).write_bytes(content)
        return Entry(len(content), oid)

    def content(self, repo: Repo, path: str, revision: str = "main") -> bytes:
        """Return the content of a file as it is downloaded."""
        commit = repo.commit(revision)
        assert commit is not None
        return self.read(commit.files[path])

    def read(self, entry: Entry) -> bytes:
        """Return the stored content of a file."""
        return (self.store / entry.stored).read_bytes()

    def holds(self, sha256: str) -> bool:
        """Return True if a large file was uploaded."""
        return (self.xet is not None and self.xet.holds(sha256)) or (self.store / sha256).exists()

    def fault_of(self, line: str) -> Fault | None:
        """Return the fault to inject into a request, if there is one, and count it."""
        with self.lock:
            for fault in self.faults:
                if fault.times and re.search(fault.match, line):
                    if fault.skip:
                        fault.skip -= 1
                        continue
                    fault.times -= 1
                    return fault
        return None


def _handler_of(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(_Handler):
        pass

    Handler.hub = hub
    return Handler


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""

    def handle_one_request(self) -> None:
        with contextlib.suppress(ConnectionError):  # a client that was killed
            super().handle_one_request()

    def _serve(self) -> None:
        body = self._body()
        self.path, _, query = self.path.partition("?")
        self.query = {key: values[-1] for key, values in parse_qs(query).items()}
        fault = self.hub.fault_of(f"{self.command} {self.path}")
        self.received, self.cut_during = len(body), fault is not None and fault.when == "during"
        if fault is not None and fault.holds is not None:
            fault.holds.wait(60)
        if fault is not None and fault.when == "before" and fault.status:
            self._answer(fault.status, {"error": "an injected fault"}, fault.headers)
        elif fault is not None and fault.when == "before" and fault.holds is None:
            self._cut()
        else:
            self.silent = fault is not None and fault.when == "after"
            try:
                self._dispatch(body)
            except Refusal as refusal:
                headers = {"X-Error-Message": refusal.message}
                if refusal.code:
                    headers["X-Error-Code"] = refusal.code
                self._answer(refusal.status, {"error": refusal.message}, headers)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size)
        if len(body) < size:
            raise ConnectionError("the client is gone")
        return body

    def _cut(self) -> None:
        self._log(0)
        self.close_connection = True

    def _log(self, status: int) -> None:
        with self.hub.lock:
            self.hub.requests.append(Request(self.command, self.path, status, self.received))

    def _answer(self, status: int, value: Any, headers: Mapping[str, str] | None = None) -> None:
        """Send plain values as JSON, or bytes as they are."""
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        if getattr(self, "silent", False):
            return self._cut()
        self._log(status)
        self.send_response(status)
        for name, text in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            if self.cut_during:
                body = body[: len(body) // 2]
                self.close_connection = True
            self.wfile.write(body)
            if self.cut_during:
                self.wfile.flush()

    def _dispatch(self, body: bytes) -> None:
        for method, pattern, name in _ROUTES:
            found = re.fullmatch(pattern, self.path)
            if found and self.command in method.split():
                groups = {key: unquote(text) for key, text in found.groupdict().items() if text is not None}
                with self.hub.lock:
                    return getattr(self, name)(body, **groups)  # type: ignore[no-any-return]
        raise Refusal(404, "Not Found")

    # Who asks, and what for.

    def _user(self, needed: bool = False) -> User | None:
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if given and given not in self.hub.users:
            raise Refusal(401, "Invalid credentials in Authorization header")
        if needed and not given:
            raise Refusal(401, "Invalid username or password.")
        return self.hub.users.get(given)

    def _repo(self, kind: str, name: str, write: bool = False, rev: str = "main") -> Repo:
        """Return a repo that the user may read, or change at a revision; authors may change their pull request."""
        user, repo = self._user(write), self.hub.repos.get((kind, name))
        namespace = name.split("/")[0]
        if repo is None or (repo.private and (user is None or namespace not in (*user.writes, *user.reads))):
            if user is None:
                raise Refusal(401, "Invalid username or password.", "RepoNotFound")
            raise Refusal(404, "Repository not found", "RepoNotFound")
        pull = repo.discussions.get(rev)
        opened = pull is not None and user is not None and pull.author == user.name
        if write and not opened and (user is None or namespace not in user.writes):
            raise Refusal(403, "You don't have the rights to write to this repo")
        return repo

    def _commit_of(self, repo: Repo, revision: str) -> Commit:
        commit = repo.commit(revision)
        if commit is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    # The API, one method per route.

    def whoami(self, body: bytes) -> None:
        user = self._user(needed=True)
        assert user is not None
        orgs = [{"name": name, "type": "org"} for name in user.writes if name != user.name]
        token = {"type": "access_token", "accessToken": {"displayName": "t", "role": "write"}}
        self._answer(200, {"type": "user", "name": user.name, "orgs": orgs, "auth": token})

    def validate(self, body: bytes) -> None:
        asked = json.loads(body)
        if "license: none-such" in asked["content"]:
            told = '"license" must be one of [apache-2.0, mit, ...]'
            errors = {"errors": [{"message": told}], "warnings": []}
            return self._answer(400, told.encode() if self.headers["Accept"] == "text/plain" else errors)
        self._answer(200, {"errors": [], "warnings": []})

    def create(self, body: bytes) -> None:
        asked, user = json.loads(body), self._user(needed=True)
        assert user is not None
        namespace = asked.get("organization") or user.name
        name, kind = f"{namespace}/{asked['name']}", f"{asked.get('type', 'model')}s"
        url = f"{self.hub.url}/{'datasets/' if kind == 'datasets' else ''}{name}"
        if namespace not in user.writes:
            raise Refusal(403, f"You don't have the rights to create a {kind[:-1]} under the namespace {namespace!r}")
        if (kind, name) in self.hub.repos:
            return self._answer(409, {"error": "You already created this repo", "url": url})
        # huggingface_hub 0.34 sends `private`, 2.4 `visibility`.
        private = asked.get("private") is True or asked.get("visibility") == "private"
        self.hub.create(kind, name, private)
        self._answer(200, {"url": url, "name": name})

    def info(self, body: bytes, kind: str, repo: str, rev: str = "main") -> None:
        found = self._repo(kind, repo)
        commit = self._commit_of(found, rev)
        siblings = [{"rfilename": path} for path in commit.files]
        facts = {"id": repo, "author": repo.split("/")[0], "sha": commit.oid, "private": found.private}
        more = {"disabled": False, "gated": False, "downloads": 0, "likes": 0, "tags": [], "siblings": siblings}
        more["xetEnabled"] = self.hub.xet is not None  # huggingface_hub 0.34 asks for it
        self._answer(200, {**facts, **more, "createdAt": _TIME, "lastModified": _TIME})

    def tree(self, body: bytes, kind: str, repo: str, rev: str, path: str = "") -> None:
        commit = self._commit_of(self._repo(kind, repo), rev)
        prefix = f"{path}/" if path else ""
        inside = {name: entry for name, entry in commit.files.items() if name.startswith(prefix)}
        if path and not inside:
            raise Refusal(404, f"{path} does not exist on {rev}", "EntryNotFound")
        recursive = self.query.get("recursive", "").lower() in ("true", "1")
        shown = [self._described(n, e) for n, e in inside.items() if recursive or "/" not in n.removeprefix(prefix)]
        folders = {prefix + part for n in inside for part in _folders(n.removeprefix(prefix), recursive)}
        shown += [{"type": "directory", "oid": "0" * 40, "size": 0, "path": name} for name in sorted(folders)]
        self._page(shown)

    def _page(self, shown: list[dict[str, Any]], size: int = 10) -> None:
        """Send a page of a list with a link to the next one; the Hub has a thousand entries per page."""
        start = int(self.query.get("cursor", 0))
        headers = {}
        if start + size < len(shown):
            query = "&".join(f"{k}={v}" for k, v in {**self.query, "cursor": start + size}.items())
            headers["Link"] = f'<{self.hub.url}{self.path}?{query}>; rel="next"'
        self._answer(200, shown[start : start + size], headers)

    def _described(self, path: str, entry: Entry) -> dict[str, Any]:
        described: dict[str, Any] = {"type": "file", "oid": entry.oid, "size": entry.size, "path": path}
        if entry.sha256:
            described["lfs"] = {"oid": entry.sha256, "size": entry.size, "pointerSize": 130}
            if self.hub.xet is not None:
                described["xetHash"] = self.hub.xet.hash_of(entry.sha256)
        return described

    def paths_info(self, body: bytes, kind: str, repo: str, rev: str) -> None:
        commit = self._commit_of(self._repo(kind, repo), rev)
        asked = json.loads(body)["paths"] if body.startswith(b"{") else parse_qs(body.decode())["paths"]
        shown = [self._described(path, commit.files[path]) for path in asked if path in commit.files]
        folders = [path for path in asked if any(name.startswith(f"{path}/") for name in commit.files)]
        self._answer(200, shown + [{"type": "directory", "oid": "0" * 40, "size": 0, "path": p} for p in folders])

    def refs(self, body: bytes, kind: str, repo: str) -> None:
        found = self._repo(kind, repo)
        listed = {
            name: [{"name": n, "ref": f"refs/{where}/{n}", "targetCommit": oid} for n, oid in of.items()]
            for name, where, of in (("branches", "heads", found.branches), ("tags", "tags", found.tags))
        }
        pulls = [{"name": n, "ref": n, "targetCommit": oid} for n, oid in found.pulls.items()]
        self._answer(200, {**listed, "converts": [], "pullRequests": pulls})

    def discussions(self, body: bytes, kind: str, repo: str) -> None:
        """Send a page of two discussions; the Hub has more per page."""
        listed = [
            {
                "num": int(name.rpartition("/")[2]),
                "title": pull.title,
                "author": {"name": pull.author, "type": "user"},
                "status": pull.status,
                "isPullRequest": True,
                "createdAt": _TIME,
                "repo": {"name": repo, "type": kind[:-1]},
            }
            for name, pull in self._repo(kind, repo).discussions.items()
            if self.query.get("author", pull.author) == pull.author
        ]
        start = 2 * int(self.query.get("p", 0))
        self._answer(200, {"discussions": listed[start : start + 2], "count": len(listed), "start": start})

    def branch(self, body: bytes, kind: str, repo: str, name: str) -> None:
        found = self._repo(kind, repo, write=True)
        if name in found.branches:
            raise Refusal(409, f"Reference already exists: {name}")
        start = json.loads(body or b"{}").get("startingPoint", "main")
        found.branches[name] = self._commit_of(found, start).oid
        self._answer(200, {})

    def tag(self, body: bytes, kind: str, repo: str, rev: str) -> None:
        found, name = self._repo(kind, repo, write=True), json.loads(body)["tag"]
        if name in found.tags:
            raise Refusal(409, f"Tag reference exists already: {name}")
        found.tags[name] = self._commit_of(found, rev).oid
        self._answer(200, {})

    def untag(self, body: bytes, kind: str, repo: str, rev: str) -> None:
        found = self._repo(kind, repo, write=True)
        if found.tags.pop(rev, None) is None:
            raise Refusal(404, f"Invalid rev id: {rev}", "RevisionNotFound")
        self._answer(200, {})

    # Writing: announced, sent, committed.

    def preupload(self, body: bytes, kind: str, repo: str, rev: str) -> None:
        found = self._repo(kind, repo, "create_pr" not in self.query, rev)
        commit, files = self._commit_of(found, rev), []
        for file in json.loads(body)["files"]:
            mode = "lfs" if _LARGE.fullmatch(file["path"]) or file["size"] > 10_000_000 else "regular"
            known = commit.files.get(file["path"])
            oid = {"oid": known.stored} if known else {}
            files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, **oid})
        self._answer(200, {"files": files})

    def lfs_batch(self, body: bytes, repo: str, kind: str = "models/") -> None:
        asked = json.loads(body)
        self._repo(kind[:-1], repo, "ref" in asked, asked.get("ref", {}).get("name", "main"))
        objects = []
        for item in asked["objects"]:
            href = f"{self.hub.url}/lfs/{item['oid']}"
            actions = {"upload": {"href": href}, "verify": {"href": f"{self.hub.url}/lfs-verify"}}
            objects.append(item if self.hub.holds(item["oid"]) else {**item, "actions": actions})
        self._answer(200, {"transfer": "basic", "objects": objects})

    def lfs_put(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            raise Refusal(400, "content does not match its oid")
        (self.hub.store / oid).write_bytes(body)
        self._answer(200, b"", {"ETag": f'"{oid}"'})

    def lfs_verify(self, body: bytes) -> None:
        asked = json.loads(body)
        path = self.hub.store / asked["oid"]
        if not path.exists() or path.stat().st_size != asked["size"]:
            raise Refusal(404, "no such object")
        self._answer(200, {})

    def commit(self, body: bytes, kind: str, repo: str, rev: str) -> None:
        opens = "create_pr" in self.query
        found, user = self._repo(kind, repo, not opens, rev), self._user(needed=True)
        assert user is not None
        base, (header, *lines) = self._commit_of(found, rev), [json.loads(line) for line in body.splitlines()]
        if not opens and header["value"].get("parentCommit") not in (None, base.oid):
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        files = dict(base.files)
        for line in lines:
            self._apply(files, line["key"], line["value"])
        made = found.add(header["value"]["summary"], files)
        prefix = "datasets/" if kind == "datasets" else ""
        answer = {
            "success": True,
            "commitOid": made.oid,
            "commitUrl": f"{self.hub.url}/{prefix}{repo}/commit/{made.oid}",
        }
        if opens:
            number = len(found.pulls) + 1
            found.pulls[f"refs/pr/{number}"] = made.oid
            found.discussions[f"refs/pr/{number}"] = Pull(header["value"]["summary"], user.name)
            answer["pullRequestUrl"] = f"{self.hub.url}/{prefix}{repo}/discussions/{number}"
        else:
            (found.pulls if rev in found.pulls else found.branches)[rev] = made.oid
        self._answer(200, answer)

    def _apply(self, files: dict[str, Entry], key: str, value: Mapping[str, Any]) -> None:
        if key == "file":
            files[value["path"]] = self.hub.put(base64.b64decode(value["content"]))
        elif key == "lfsFile":
            if not self.hub.holds(value["oid"]):
                raise Refusal(400, f"LFS pointer to {value['oid']}, which does not exist")
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{value['oid']}\nsize {value['size']}\n"
            entry = self.hub.put(pointer.encode())
            files[value["path"]] = replace(entry, size=value["size"], sha256=value["oid"])
        elif key == "deletedFile":
            del files[value["path"]]
        else:
            raise Refusal(400, f"unknown operation {key}")

    # Reading.

    def resolve(self, body: bytes, repo: str, rev: str, path: str, kind: str = "models/") -> None:
        commit = self._commit_of(self._repo(kind[:-1], repo), rev)
        entry = commit.files.get(path)
        headers = {"X-Repo-Commit": commit.oid}
        if entry is None:
            more = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            return self._answer(404, {"error": "Entry not found"}, headers | more)
        headers |= {"ETag": f'"{entry.stored}"', "Accept-Ranges": "bytes"}
        if entry.sha256:
            headers |= {"X-Linked-Etag": f'"{entry.sha256}"', "X-Linked-Size": str(entry.size)}
            if self.hub.xet is not None:
                token = f"{self.hub.url}/api/{kind}{repo}/xet-read-token/{commit.oid}"
                headers |= {"X-Xet-Hash": self.hub.xet.hash_of(entry.sha256), "Link": f'<{token}>; rel="xet-auth"'}
        self._send_file(entry, headers)

    def _send_file(self, entry: Entry, headers: dict[str, str]) -> None:
        """Send the whole file, or the requested range."""
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if self.command == "HEAD":
            headers["Content-Length"] = str(entry.size)
            return self._answer(200, b"", headers)
        if self.hub.xet is not None and entry.sha256:
            raise Refusal(501, "large files come from Xet storage alone")
        content = self.hub.read(entry)
        if asked is None:
            return self._answer(200, content, headers)
        begin = int(asked[1]) if asked[1] else max(0, len(content) - int(asked[2]))
        end = min(len(content), int(asked[2]) + 1) if asked[1] and asked[2] else len(content)
        if begin >= len(content):
            return self._answer(416, b"", headers | {"Content-Range": f"bytes */{len(content)}"})
        headers["Content-Range"] = f"bytes {begin}-{end - 1}/{len(content)}"
        self._answer(206, content[begin:end], headers)

    def xet_token(self, body: bytes, kind: str, repo: str, access: str, rev: str = "main") -> None:
        self._repo(kind, repo, access == "write" and "create_pr" not in self.query, rev)
        if self.hub.xet is None:
            raise Refusal(404, "this Hub has no Xet storage")
        until = 4_102_444_800
        facts = {"casUrl": self.hub.xet.url, "accessToken": "xet", "exp": until}
        headers = {"X-Xet-Cas-Url": self.hub.xet.url, "X-Xet-Access-Token": "xet", "X-Xet-Token-Expiration": str(until)}
        self._answer(200, facts, headers)


def _folders(path: str, recursive: bool) -> Iterator[str]:
    """Yield the folders above a path, or only the first of them."""
    parts = path.split("/")[:-1]
    for depth in range(1, len(parts) + 1 if recursive else min(len(parts), 1) + 1):
        yield "/".join(parts[:depth])


_API = r"/api/(?P<kind>models|datasets)/(?P<repo>[^/]+/[^/]+)"
_GIT = r"/(?P<kind>datasets/)?(?P<repo>[^/]+/[^/]+)"
_ROUTES = (  # methods, path, name of the method above
    ("GET", r"/api/whoami-v2", "whoami"),
    ("POST", r"/api/repos/create", "create"),
    ("POST", r"/api/validate-yaml", "validate"),
    ("GET", rf"{_API}(/revision/(?P<rev>[^/]+))?", "info"),
    ("GET", rf"{_API}/tree/(?P<rev>[^/]+)(/(?P<path>.+))?", "tree"),
    ("POST", rf"{_API}/paths-info/(?P<rev>[^/]+)", "paths_info"),
    ("GET", rf"{_API}/refs", "refs"),
    ("GET", rf"{_API}/discussions", "discussions"),
    ("POST", rf"{_API}/branch/(?P<name>[^/]+)", "branch"),
    ("POST", rf"{_API}/tag/(?P<rev>[^/]+)", "tag"),
    ("DELETE", rf"{_API}/tag/(?P<rev>[^/]+)", "untag"),
    ("POST", rf"{_API}/preupload/(?P<rev>[^/]+)", "preupload"),
    ("POST", rf"{_API}/commit/(?P<rev>[^/]+)", "commit"),
    ("GET", rf"{_API}/xet-(?P<access>read|write)-token(/(?P<rev>[^/]+))?", "xet_token"),
    ("POST", rf"{_GIT}\.git/info/lfs/objects/batch", "lfs_batch"),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", "lfs_put"),
    ("POST", r"/lfs-verify", "lfs_verify"),
    ("GET HEAD", rf"{_GIT}/resolve/(?P<rev>[^/]+)/(?P<path>.+)", "resolve"),
)


def tiny(hub: HubServer) -> Repo:
    """Return the repo that most tests push to."""
    return hub.repos["datasets", "zoos/tiny"]


def holds(hub: HubServer, folder: Path, revision: str = "main") -> bool:
    """Return True if the repo has exactly the files of a folder, byte for byte, and a card that names the repo."""
    from modelzoo_datasets.hub import name_repo  # not before processes are forked

    commit = tiny(hub).commit(revision)
    assert commit is not None
    local = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    card = name_repo(local["README.md"].decode(), "zoos/tiny")
    assert '"zoos/tiny"' in card and "Path.cwd()" not in card
    local["README.md"] = card.encode()
    return local == {p: hub.content(tiny(hub), p, revision) for p in commit.files if p != ".gitattributes"}
