"""What a Hub on loopback knows: users, repos with commits and what points to them, faults, what was asked."""

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class User:
    """Whom a token belongs to."""

    name: str
    writes: tuple[str, ...]  # to repos of these namespaces
    reads: tuple[str, ...] = ()  # private repos of these too


@dataclass(frozen=True)
class Entry:
    """A file of a commit; its content lies in the store under its name there."""

    size: int
    oid: str  # of git
    sha256: str | None = None  # of large files

    @property
    def stored(self) -> str:
        return self.sha256 or self.oid


@dataclass(frozen=True)
class Commit:
    """A state of all files."""

    oid: str
    title: str
    files: Mapping[str, Entry]


@dataclass
class Pull:
    """What is listed of a pull request."""

    title: str
    author: str
    status: str = "open"


@dataclass
class Repo:
    """Commits and what points to them: `main` and other branches, tags, `refs/pr/1`."""

    kind: str  # models or datasets
    name: str
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pulls: dict[str, str] = field(default_factory=dict)
    discussions: dict[str, Pull] = field(default_factory=dict)  # by the name that `pulls` have them under

    def commit(self, revision: str) -> Commit | None:
        """What a branch, tag, pull request or commit id names."""
        oid = self.branches.get(revision) or self.tags.get(revision) or self.pulls.get(revision) or revision
        return self.commits.get(oid)

    def add(self, title: str, files: Mapping[str, Entry]) -> Commit:
        """A new commit that nothing points to yet."""
        text = json.dumps([title, len(self.commits), sorted((path, entry.oid) for path, entry in files.items())])
        commit = Commit(hashlib.sha1(text.encode()).hexdigest(), title, dict(files))
        self.commits[commit.oid] = commit
        return commit


@dataclass
class Fault:
    """What goes wrong with requests of which `METHOD /path` matches: after `skip` of them, `times` times."""

    match: str
    status: int = 0  # answered instead of serving; 0: the connection is cut
    when: str = "before"  # it is served; `during` the answer; `after` it is served, which nobody hears of
    times: int = 1
    skip: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    holds: threading.Event | None = None  # waits for it first


@dataclass(frozen=True)
class Request:
    """One that was answered, or not."""

    method: str
    path: str
    status: int  # 0: cut
    received: int  # bytes of its body


class Refusal(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code
