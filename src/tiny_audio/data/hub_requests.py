"""Requests to the Hub: what its answers mean, which requests to repeat, and how long to wait before.

All threads of a process share one pause: when the Hub asks one to wait (HTTP 429), all of them wait.
"""

from __future__ import annotations

import email.utils
import logging
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TypeVar

from ..errors import FetchError, UserError
from .corpora import HUB, Corpus

logger = logging.getLogger(__name__)

T = TypeVar("T")

PARALLEL_REQUESTS = 20  # as many connections as huggingface_hub's client keeps open
TRIES = 3  # of a request at the start of a run, while the user waits
TRIES_WHEN_DRAWN = 6  # of a request during a run, which would otherwise end: over six minutes
MAX_PAUSES = 30  # of one request; the Hub counts in windows of five minutes
DEFAULT_PAUSE = 30.0  # seconds, if a 429 does not say how long
# The HTTP clients of huggingface_hub's versions: their errors mean no network.
HTTP_CLIENTS = ("httpx", "httpx2", "requests")


class Pause:
    """The time before which a process sends no request to the Hub."""

    def __init__(self) -> None:
        self._until = 0.0
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Sleep until it is over."""
        while (left := self._until - time.monotonic()) > 0:
            time.sleep(left)

    def extend(self, seconds: float) -> None:
        """Send no request for so long; the message is printed once, even for many requests in flight."""
        with self._lock:
            now = time.monotonic()
            if self._until < now:
                logger.warning("Too many requests to the Hub: it asks for a pause of %.0f s (HTTP 429).", seconds)
            self._until = max(self._until, now + seconds)


PAUSE = Pause()


def pause_seconds(headers: Any) -> float:
    """Return how long to wait after a 429: `Retry-After` (RFC 9110), seconds or a date, or `RateLimit`."""
    value = headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    with suppress(ValueError):  # no date
        date = email.utils.parsedate_to_datetime(value)
        return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
    if left := re.search(r"\bt=(\d+)", headers.get("RateLimit", "")):  # the Hub's own: "api";r=0;t=55
        return float(left[1])
    return DEFAULT_PAUSE


def retry(request: Callable[[], T], corpus: Corpus, revision: str | None, tries: int = TRIES) -> T:
    """Send a request; repeat it if the Hub says to wait, or, after growing pauses, if the network fails.

    Neither must end a run. A pause that the Hub asks for does not count as a failed try.

    Raises:
        FetchError: the request is refused, or fails every time.
    """
    pauses, failures = 0, 0
    while True:
        PAUSE.wait()
        try:
            return request()
        except Exception as error:
            response = _response(error)
            if response is not None and response.status_code == 429 and pauses < MAX_PAUSES:
                pauses += 1
                PAUSE.extend(pause_seconds(response.headers))
                continue
            known = explained(error, corpus, revision)
            if not isinstance(known, UserError):
                raise
            failures += 1
            may_pass = response.status_code >= 500 if response is not None else "cannot be reached" in str(known)
            if failures >= tries or not may_pass:
                raise FetchError(str(known)) from None
            seconds = 4 ** (failures - 1)
            logger.warning("%s Trying again in %d s...", known, seconds)
            time.sleep(seconds)


def _response(error: BaseException | None) -> Any:
    """The response that an error, or its cause, holds; None if there is none."""
    while error is not None:
        response = getattr(error, "response", None)
        if response is not None:
            return response
        error = error.__cause__
    return None


def explained(error: Exception, corpus: Corpus, revision: str | None) -> Exception:
    """Return a one-line error for each way in which the Hub can fail; any other exception unchanged."""
    from huggingface_hub import errors

    page = corpus.terms or f"{HUB}/{corpus.hub_id}"
    if isinstance(error, errors.OfflineModeIsEnabled):
        why = "HF_HUB_OFFLINE is set and it is not in the cache; unset it, or download the corpus first"
    elif isinstance(error, errors.GatedRepoError):
        why = f"accept its terms at {page}, then set HF_TOKEN to a token of that account"
    elif isinstance(error, errors.RevisionNotFoundError):
        why = f"it has no revision {revision}"
    elif isinstance(error, errors.RepositoryNotFoundError):
        why = "there is no such dataset, or it is private: check the id, or set HF_TOKEN"
    elif isinstance(error, errors.HfHubHTTPError):
        why = f"the Hub answered: {str(error).strip().splitlines()[0]}"
    elif isinstance(error, errors.HFValidationError):
        why = "that is not a dataset id (owner/name)"
    elif isinstance(error, (errors.LocalEntryNotFoundError, ConnectionError, TimeoutError)) or (
        type(error).__module__.split(".")[0] in HTTP_CLIENTS
    ):
        why = (
            "the Hugging Face Hub cannot be reached; check the network, set HF_ENDPOINT to a mirror, or set "
            "path to a local copy (data=pocket trains on bundled speech)"
        )
    elif isinstance(error, OSError):  # such as a full disk
        why = str(error)
    else:
        return error
    here = f"There is no {corpus.hub_id} on this disk. " if corpus.guessed else ""
    return UserError(f"{here}Could not fetch the dataset {corpus.hub_id}: {why}.")
