"""Retries of requests that may succeed later, and errors of the Hub's client as one line that says what to do."""

import errno
import logging
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeGuard, TypeVar

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

from .._util import one_line
from ..errors import DiskFullError, HubAccessError, HubError, HubUnavailableError, ModelZooError

T = TypeVar("T")
LOG_IN = "log in with `hf auth login` or set HF_TOKEN"
CONFLICT = (409, 412)  # HTTP status: somebody else changed the repo at the same time
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_BUSY = (408, 429, 500, 502, 503, 504)
_NOT_SERVED = (429, 503)
_WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds between attempts, unless the Hub asks for more with Retry-After
_MAX_WAIT = 300.0  # seconds: the window of the Hub's rate limits
_log = logging.getLogger(__name__)


def _import_http_client() -> Any:
    """Return the HTTP library of the Hub's client: requests before 1.0, httpx since, httpx2 since 2.0."""
    names = [base.__module__.partition(".")[0] for base in HfHubHTTPError.__mro__]
    return next(sys.modules[name] for name in names if name in ("requests", "httpx", "httpx2"))


_http = _import_http_client()
_TRANSPORT_ERRORS: tuple[type[Exception], ...]  # no answer came, or not a whole one
if _http.__name__ == "requests":
    _TRANSPORT_ERRORS = (_http.ConnectionError, _http.Timeout, _http.exceptions.ChunkedEncodingError)
else:
    _TRANSPORT_ERRORS = (_http.TransportError,)


def is_transport_error(error: BaseException) -> bool:
    """Tell whether a request got no answer, or not a whole one."""
    return isinstance(error, _TRANSPORT_ERRORS) or _is_short(error)


def _is_short(error: BaseException) -> bool:
    """Tell whether a download ended early, which urllib3 1 does not notice but the client does."""
    return isinstance(error, OSError) and str(error).startswith("Consistency check failed")


def _is_connected(error: BaseException) -> bool:
    """Tell whether there was a connection before a transport error."""
    if _http.__name__ != "requests":
        return not isinstance(error, _http.ConnectError)
    # requests has one class for a refused connection and for one that breaks off; the reason within tells them apart.
    reason = type(error.args[0]).__name__ if error.args else ""
    return not isinstance(error, _http.ConnectionError) or reason == "ProtocolError"


def with_retries(call: Callable[[], T], *, idempotent: bool = True) -> T:
    """Call a function up to five times while it fails for a reason that may pass, waiting longer each time.

    The client does not retry the requests that create repos, branches, commits and tags; before its release 1.0, it
    retries few others.

    Args:
        call: A function that makes one request.
        idempotent: Whether the request may be served twice. Other requests are repeated only if the Hub said that it
            did not serve them.

    Returns:
        The result of the first call that succeeds.
    """
    for wait in _WAITS:
        try:
            return call()
        except Exception as error:
            cause = _find_cause(error)
            if not _is_transient(cause, idempotent) or _retry_after(cause) > _MAX_WAIT:
                raise
            wait = max(wait, _retry_after(cause))
            if wait > _WAITS[-1]:
                _log.warning("the Hub limits the rate of requests; next attempt in %.0f s", wait)
            time.sleep(wait)
    return call()


def _is_transient(error: BaseException, idempotent: bool) -> bool:
    """Tell whether the same request may be served later. Without any connection, waiting does not help."""
    if _is_answer(error):
        return error.response.status_code in (_BUSY if idempotent else _NOT_SERVED)
    return idempotent and is_transport_error(error) and _is_connected(error)


def _retry_after(error: BaseException) -> float:
    """Return the seconds that the Hub asks to wait for, 0 where it does not say."""
    value = error.response.headers.get("Retry-After", "") if _is_answer(error) else ""
    return float(value) if value.isdigit() else 0.0


@contextmanager
def translate_hub_errors(repo_id: str, revision: str | None, action: str) -> Iterator[None]:
    """Raise errors of the Hub's client as errors of this package.

    Args:
        repo_id: ORG/NAME.
        revision: Branch, tag or commit; None for the main branch.
        action: The work that may fail, as messages begin with it: "pushing to a/b".

    Raises:
        HubError: The Hub or the connection to it failed; the subclass and the message say how.
        DiskFullError: The disk has no space for a file.
    """
    try:
        yield
    except ModelZooError:
        raise
    except Exception as error:
        translation = _translate(_find_cause(error), repo_id, revision or constants.DEFAULT_REVISION, action)
        if translation is None:
            raise
        raise translation from error


def _find_cause(error: BaseException) -> BaseException:
    """Return the informative error that the client wrapped, sometimes twice, in others."""
    while error.__cause__ is not None and not _is_answer(error) and not is_transport_error(error):
        error = error.__cause__
    return error


def _is_answer(error: BaseException) -> TypeGuard[HfHubHTTPError]:
    """Tell whether the Hub answered with an error. Before release 1.0, the client has some without an answer."""
    return isinstance(error, HfHubHTTPError) and error.response is not None


def _translate(error: BaseException, repo_id: str, revision: str, action: str) -> ModelZooError | None:
    """Return None for an error that has nothing to do with the Hub."""
    if isinstance(error, OfflineModeIsEnabled):
        return HubUnavailableError(
            f"{action}: HF_HUB_OFFLINE is set and not all files are in the cache; unset it to download them"
        )
    if _is_answer(error):
        return _translate_status(error, repo_id, revision, action)
    if is_transport_error(error):
        return HubUnavailableError(
            f"{action}: cannot reach the Hub at {constants.ENDPOINT} ({_without_token(_reason(error))}); check the "
            "network and HF_ENDPOINT, then run the same command again to resume"
        )
    if isinstance(error, LocalEntryNotFoundError):
        return HubUnavailableError(
            f"{action}: cannot reach the Hub, and not all files are in the cache; check the network and try again"
        )
    if _error_number(error) in _DISK_FULL:
        return DiskFullError(
            f"{action}: the disk of {constants.HF_HUB_CACHE} is full; free some space there, or set HF_HOME to a "
            "folder on a larger disk, then try again to resume"
        )
    if isinstance(error, HFValidationError):
        return HubError(f"{action}: {_without_token(error)}")
    if type(error).__module__.startswith("hf_xet") or isinstance(error, RuntimeError):  # raised by Xet transfers
        return HubUnavailableError(f"{action}: the transfer failed ({_without_token(error)}); try again to resume")
    return None


def _reason(error: BaseException) -> BaseException:
    """Return the operating system's error beneath a transport error, else the error itself.

    requests tells of a refused connection in several layers, each within the text of the next.
    """
    within: BaseException | None = error
    while within is not None:
        if isinstance(within, OSError) and within.errno is not None:
            error = within
        within = within.__cause__ or within.__context__
    return error


def _error_number(error: BaseException) -> int | None:
    """Return the system's number of an error, which Xet transfers mention only in their text."""
    if isinstance(error, OSError):
        return error.errno
    match = re.search(r"\(os error (\d+)\)", str(error)) if isinstance(error, RuntimeError) else None
    return int(match[1]) if match else None


def _translate_status(error: HfHubHTTPError, repo_id: str, revision: str, action: str) -> HubError:
    status = error.response.status_code
    phrase = "reason" if _http.__name__ == "requests" else "reason_phrase"
    message = _without_token(error.server_message or getattr(error.response, phrase))
    if isinstance(error, GatedRepoError):
        return HubAccessError(f"{action}: {repo_id} is gated; request access at {constants.ENDPOINT}/{repo_id}")
    if isinstance(error, RevisionNotFoundError):
        return HubError(f"{action}: {repo_id} has no revision {revision!r}; pass one of its branches, tags or commits")
    if isinstance(error, RepositoryNotFoundError):
        if get_token() is None:
            return HubAccessError(f"{action}: {repo_id} does not exist or is private; for a private repo, {LOG_IN}")
        return HubAccessError(
            f"{action}: {repo_id} does not exist or is not visible with the current token; check the name and the token"
        )
    if status == 401:
        return HubAccessError(
            f"{action}: the Hub rejects the current token ({message}); create one at "
            f"{constants.ENDPOINT}/settings/tokens, then {LOG_IN}"
        )
    if status == 403:
        namespace = repo_id.split("/")[0]
        return HubAccessError(
            f"{action}: the current token does not permit this ({message}); use one with write access to {namespace}"
        )
    if status in CONFLICT:
        return HubUnavailableError(
            f"{action}: somebody else is changing {repo_id} ({status} {message}); try again later to resume"
        )
    if status in _BUSY:
        return HubUnavailableError(
            f"{action}: the Hub is busy or limits requests ({status} {message}); run the same command later to resume"
        )
    return HubError(f"{action}: the Hub rejected the request ({status} {message})")


def _without_token(reason: object) -> str:
    """Return a reason on one line, with the current token blanked out."""
    text, token = one_line(reason), get_token()
    return text.replace(token, "***") if token else text
