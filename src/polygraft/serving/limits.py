"""How much is done at a time, for how long; what is beyond is refused with the status that says so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

MOST_BEAMS, MOST_NEW_TOKENS = 8, 256
"""Unless the server's own settings are larger."""
FILES, FILES_PER_CLIENT = 4, 2
"""That are worked on at a time."""
CONNECTIONS = 512
"""Requests of all kinds at a time."""
BODY_SECONDS, SEND_SECONDS, WAIT_SECONDS = 60.0, 60.0, 120.0
"""For a request to arrive, for a part of an answer to be taken, for a model to begin."""
RETRY_SECONDS = 5
READ_TO_THE_END = 8  # times what is allowed, of a body that is larger
JSON_BYTES = 2_000_000
"""Of a request for texts, unless a single one may be longer."""
JSON_BYTES_PER_CHARACTER = 12  # of one beyond the BMP, escaped


class Refusal(Exception):
    """A request that is not carried out: its status, and what is said of it."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status, self.words = status, words.encode(errors="replace").decode()  # names of columns may be anything

    @property
    def headers(self) -> dict[str, str]:
        if self.status == 401:
            return {"WWW-Authenticate": "Bearer"}
        return {"Retry-After": str(RETRY_SECONDS)} if self.status in (429, 503) else {}


class Turns:
    """How many requests are in the work: of all clients, and of each address."""

    def __init__(self, most: int, most_per_client: int, what: str) -> None:
        self.most, self.most_per_client, self.what = most, most_per_client, what
        self.of: Counter[str] = Counter()

    @contextmanager
    def taken(self, client: str) -> Iterator[None]:
        """Count a request in the block.

        Raises:
            Refusal: 429 for one too many of this client, 503 for one too many of all.
        """
        if self.of[client] >= self.most_per_client:
            raise Refusal(429, f"{self.what}: yours are {self.of[client]} already. Wait for one of them.")
        if self.of.total() >= self.most:
            raise Refusal(503, f"{self.what}: {self.most} are in the work already. Try again in a while.")
        self.of[client] += 1
        try:
            yield
        finally:
            self.of[client] -= 1
            self.of += Counter()  # forgets who has none
