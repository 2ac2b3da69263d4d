"""What the Hub's client raises, as one line with the remedy; and which requests are tried again."""

import errno
import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from huggingface_hub import constants, get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # the client's own name for it

from .._util import one_line
from ..errors import DiskFullError, HubAccessError, HubError, HubUnavailableError, ModelZooError

T = TypeVar("T")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_BUSY = (408, 429, 500, 502, 503, 504)
_NOT_SERVED = (429, 503)
CHANGED = (409, 412)  # the repo was changed by somebody else at the same time
_WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds between tries; as long as the Hub says where it does, up to
_LONGEST = 300.0  # its window of rates
_LOG_IN = "log in with `hf auth login` or set HF_TOKEN"
_log = logging.getLogger(__name__)


def with_retries(call: Callable[[], T], *, twice_is_harmless: bool = True) -> T:
    """Try again, a few times and ever later, what failed for a reason that passes.

    The client does so itself for uploads, listings and downloads, but not where it makes repos, branches, commits
    and tags. A call that must not be made twice is tried again only where the Hub said that it did not serve it.
    """
    for wait in _WAITS:
        try:
            return call()
        except Exception as error:
            cause = _cause(error)
            if not _passes(cause, twice_is_harmless) or _asked_wait(cause) > _LONGEST:
                raise
            wait = max(wait, _asked_wait(cause))
            if wait > _WAITS[-1]:
                _log.warning("the Hub takes no requests for now: trying again in %.0f s", wait)
            time.sleep(wait)
    return call()


def _passes(error: BaseException, twice_is_harmless: bool) -> bool:
    """Whether the same request may be served a little later; where there is no connection at all it is told at once."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in (_BUSY if twice_is_harmless else _NOT_SERVED)
    return twice_is_harmless and isinstance(error, httpx.TransportError) and not isinstance(error, httpx.ConnectError)


def _asked_wait(error: BaseException) -> float:
    asked = error.response.headers.get("Retry-After", "") if isinstance(error, HfHubHTTPError) else ""
    return float(asked) if asked.isdigit() else 0.0


@contextmanager
def translate_hub_errors(repo_id: str, revision: str | None, doing: str) -> Iterator[None]:
    """Turn whatever the client raises into one line of ours; `doing` says what failed, as in 'pushing to a/b'."""
    try:
        yield
    except ModelZooError:
        raise
    except Exception as error:
        explained = _explained(_cause(error), repo_id, revision or constants.DEFAULT_REVISION, doing)
        if explained is None:
            raise
        raise explained from error


def _cause(error: BaseException) -> BaseException:
    """The client wraps what happened, sometimes twice, in errors that say less."""
    while error.__cause__ is not None and not isinstance(error, (HfHubHTTPError, httpx.TransportError)):
        error = error.__cause__
    return error


def _explained(error: BaseException, repo_id: str, revision: str, doing: str) -> ModelZooError | None:
    """None for what is no failure of the Hub or of the way to it."""
    if isinstance(error, OfflineModeIsEnabled):
        return HubUnavailableError(f"{doing}: offline (HF_HUB_OFFLINE is set), and not all of it is in the cache")
    if isinstance(error, HfHubHTTPError):
        return _refused(error, repo_id, revision, doing)
    if isinstance(error, httpx.TransportError):
        return HubUnavailableError(
            f"{doing}: cannot reach the Hub at {constants.ENDPOINT} ({_line(error)}); check the network and "
            "HF_ENDPOINT, then run the same command again to go on"
        )
    if isinstance(error, LocalEntryNotFoundError):
        return HubUnavailableError(f"{doing}: the Hub cannot be reached, and not all of it is in the cache")
    if _errno(error) in _FULL:
        return DiskFullError(
            f"{doing}: the disk is full: no room for it in {constants.HF_HUB_CACHE}; make room there or set HF_HOME "
            "to a larger disk, then do the same again to go on"
        )
    if isinstance(error, HFValidationError):
        return HubError(f"{doing}: {_line(error)}")
    if type(error).__module__.startswith("hf_xet") or isinstance(error, RuntimeError):  # of its transfers
        return HubUnavailableError(f"{doing}: the transfer failed ({_line(error)}); do the same again to go on")
    return None


def _errno(error: BaseException) -> int | None:
    """The system's number of an error, which transfers of Xet storage put into their text."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error)) if isinstance(error, RuntimeError) else None
    return int(found[1]) if found else None


def _refused(error: HfHubHTTPError, repo_id: str, revision: str, doing: str) -> HubError:
    status, said = error.response.status_code, _line(error.server_message or error.response.reason_phrase)
    if isinstance(error, GatedRepoError):
        return HubAccessError(f"{doing}: {repo_id} is gated; ask for access at {constants.ENDPOINT}/{repo_id}")
    if isinstance(error, RevisionNotFoundError):
        return HubError(f"{doing}: {repo_id} has no revision {revision!r}; name a branch, a tag or a commit of it")
    if isinstance(error, RepositoryNotFoundError):
        if get_token() is None:
            return HubAccessError(f"{doing}: no {repo_id} can be seen without a token; if it is private, {_LOG_IN}")
        return HubAccessError(f"{doing}: there is no {repo_id}, or none that the token in use may see")
    if status == 401:
        return HubAccessError(
            f"{doing}: the Hub does not accept the token in use ({said}); make one at "
            f"{constants.ENDPOINT}/settings/tokens, then {_LOG_IN}"
        )
    if status == 403:
        return HubAccessError(
            f"{doing}: the token in use may not do this ({said}); it needs write access to {repo_id.split('/')[0]}"
        )
    if status in CHANGED:
        return HubUnavailableError(f"{doing}: {repo_id} is being changed by somebody else ({status} {said}); try later")
    if status in _BUSY:
        return HubUnavailableError(
            f"{doing}: the Hub does not serve this for now ({status} {said}); run the same command later to go on"
        )
    return HubError(f"{doing}: the Hub refuses ({status} {said})")


def _line(reason: object) -> str:
    """One line without the token, whoever put it there."""
    text = one_line(reason)
    token = get_token()
    return text.replace(token, "***") if token else text
