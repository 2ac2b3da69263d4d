"""The state of a Hub on loopback: users, repos with commits and references, faults and requests."""

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class User:
    """The owner of a token."""

    name: str
    writes: tuple[str, ...]  # to repos of these namespaces
    reads: tuple[str, ...] = ()  # private repos of these too


@dataclass(frozen=True)
class Entry:
    """A file of a commit; the store holds its content."""

    size: int
    oid: str  # of git
    sha256: str | None = None  # of large files

    @property
    def stored(self) -> str:
        return self.sha256 or self.oid


@dataclass(frozen=True)
class Commit:
    """A commit: all files of a repo at one time."""

    oid: str
    title: str
    files: Mapping[str, Entry]


@dataclass
class Pull:
    """A pull request in the list of discussions."""

    title: str
    author: str
    status: str = "open"


@dataclass
class Repo:
    """The commits of a repo and its references: branches, tags and pull requests such as `refs/pr/1`."""

    kind: str  # models or datasets
    name: str
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pulls: dict[str, str] = field(default_factory=dict)
    discussions: dict[str, Pull] = field(default_factory=dict)  # by the name that `pulls` have them under

    def commit(self, revision: str) -> Commit | None:
        """Return the commit of a branch, tag, pull request or commit id."""
        oid = self.branches.get(revision) or self.tags.get(revision) or self.pulls.get(revision) or revision
        return self.commits.get(oid)

    def add(self, title: str, files: Mapping[str, Entry]) -> Commit:
        """Add a commit without a reference to it."""
        text = json.dumps([title, len(self.commits), sorted((path, entry.oid) for path, entry in files.items())])
        commit = Commit(hashlib.sha1(text.encode()).hexdigest(), title, dict(files))
        self.commits[commit.oid] = commit
        return commit


@dataclass
class Fault:
    """A fault in requests whose `METHOD /path` matches: `times` times, after the first `skip` ones."""

    match: str
    status: int = 0  # answered instead of serving; 0: the connection is cut
    when: str = "before"  # it is served; `during` the answer; `after` it is served, which nobody hears of
    times: int = 1
    skip: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    holds: threading.Event | None = None  # waits for it first


@dataclass(frozen=True)
class Request:
    """A request that was received, answered or not."""

    method: str
    path: str
    status: int  # 0: cut
    received: int  # bytes of its body


class Refusal(Exception):
    """A response with an error status."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code
