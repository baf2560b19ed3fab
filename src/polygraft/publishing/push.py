"""`polygraft push`: a model and its card to the Hugging Face hub, in one commit: all of it appears, or nothing.

What the hub's client retries by itself, it retries: asking what is there already, and sending the weights. What it does
not, creating the repository and the commit, is retried here. Run again, an interrupted upload sends what is missing.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import huggingface_hub
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from polygraft import __version__
from polygraft.errors import PolygraftError, RecipeError
from polygraft.publishing.card import CARD_NAME, is_own, read_card, write_model_card
from polygraft.publishing.licences import findings, look_up, stated
from polygraft.publishing.origins import lineage, origins
from polygraft.publishing.selection import LeftOut, PushedFile, find_model, select
from polygraft.publishing.stranger import load
from polygraft.runs.records import DONE, read_record

T = TypeVar("T")
RETRIED = {409, 412, 429, 500, 502, 503, 504}
WAITS = (1, 2, 4, 8, 16)  # seconds before the second to the sixth attempt
MESSAGE = f"Upload a model with polygraft {__version__}"
AGAIN = " Run the same command again: what arrived is not sent twice."
LOG_IN = "Log in with `hf auth login`, or set HF_TOKEN to a token that may write."
# The base of all that the client's HTTP library raises of a request: httpx, of later versions httpx2.
RequestFailed: type[Exception] = HfHubHTTPError.__bases__[0]


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """What was published, or would be.

    Attributes:
        url: of the commit; None of a dry run.
        card: the card, in the model's folder.
        uploads, left_out: files that go, and files that stay.
        findings: what is to be known of licences, a sentence each.
        private: whether only its owner sees the repository, or would see a new one.
    """

    repo_id: str
    url: str | None
    card: Path
    uploads: Sequence[PushedFile]
    left_out: Sequence[LeftOut]
    findings: Sequence[str]
    private: bool


def push(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool = True,
    revision: str | None = None,
    commit_message: str | None = None,
    license: str | None = None,
    include: Sequence[str] = (),
    dry_run: bool = False,
) -> Pushed:
    """Publish a model on the Hugging Face hub: write its card, load it as a stranger would, upload all in one commit.

    The token is that of HF_TOKEN or of `hf auth login`.

    Args:
        folder: a checkpoint, a run or one of its seeds, or what `polygraft export` wrote.
        repo_id: OWNER/NAME.
        private: who sees a repository that is made; one that is public is refused unless this is False.
        license: what the card states, as the hub calls it.
        include: patterns of files that are left out unless asked for, such as `evaluate/*`.
        dry_run: whether nothing is sent.

    Raises:
        RecipeError: no name of a repository, several models, offline, or a licence beside a card of one's own.
        CheckpointError: weights that are not safetensors, or files that do not make a model.
        DataError: a card that the hub cannot read.
        PolygraftError: the hub refuses, or cannot be reached.
    """
    _assert_name(repo_id)
    model = find_model(Path(folder))
    record = read_record(model)
    if record and record["status"] != DONE:
        raise PolygraftError(f"{model}: is not finished. Run the same command again that makes it.")
    offline = huggingface_hub.constants.is_offline_mode()
    if offline and not dry_run:
        raise RecipeError("polygraft push: HF_HUB_OFFLINE is set. Unset it to upload; --dry-run works without the hub.")
    if not dry_run and huggingface_hub.get_token() is None:
        raise PolygraftError(f"polygraft push: no token for the hub was found. {LOG_IN}")
    made_from = origins(lineage(model))
    if not offline:
        for origin in made_from:
            look_up(origin)
        made_from = origins(lineage(model))
    card = _card(model, repo_id, license)
    uploads, left_out = select(model, include)
    with tempfile.TemporaryDirectory() as place:
        load(_laid_out(uploads, Path(place)))
    url = None
    if not dry_run:
        url, private = _upload(repo_id, uploads, private, revision, commit_message or MESSAGE)
    return Pushed(
        repo_id=repo_id, url=url, card=card, uploads=uploads, left_out=left_out,
        findings=findings(made_from, stated(card)), private=private,
    )  # fmt: skip


def _assert_name(repo_id: str) -> None:
    try:
        huggingface_hub.utils.validate_repo_id(repo_id)
        if repo_id.count("/") != 1:
            raise HFValidationError("it has no owner")
    except HFValidationError as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise RecipeError(
            f"polygraft push: --repo-id {repo_id}: {reason}. Write OWNER/NAME, such as me/mbart-uk."
        ) from None


def _card(model: Path, repo_id: str, license: str | None) -> Path:
    path = model / CARD_NAME
    if license and is_own(path):
        raise RecipeError(f"polygraft push: --license {license}: {path} is a card of your own. State it there.")
    write_model_card(model, repo_id=repo_id, license=license)
    read_card(path)
    return path


def _laid_out(uploads: Sequence[PushedFile], place: Path) -> Path:
    """Put what is uploaded, and nothing else, into a folder: links, but for what was changed."""
    for one in uploads:
        target = place / one.path
        target.parent.mkdir(parents=True, exist_ok=True)
        if one.content is None:
            target.symlink_to(one.file.resolve())
        else:
            target.write_bytes(one.content)
    return place


# ---------------------------------------------------------------- the hub


def _upload(
    repo_id: str, uploads: Sequence[PushedFile], private: bool, revision: str | None, message: str
) -> tuple[str, bool]:
    """Create what is not there yet, and commit the files; returns the commit's address, and who sees it."""
    api = HfApi(library_name="polygraft", library_version=__version__)
    where = f"{api.endpoint}/{repo_id}"
    try:
        _patiently(lambda: api.create_repo(repo_id, private=private, exist_ok=True))
        is_private = bool(_patiently(lambda: api.model_info(repo_id)).private)
        if private and not is_private:
            raise RecipeError(
                f"polygraft push: {where} is there already, and public: everybody would see what is uploaded. Give "
                "--public if that is meant, or make it private first."
            )
        if revision is not None and not revision.startswith("refs/"):
            _patiently(lambda: api.create_branch(repo_id, branch=revision, exist_ok=True))

        def commit() -> Any:  # of new operations each time: they ask again what is there already
            files = [CommitOperationAdd(one.path, one.file if one.content is None else one.content) for one in uploads]
            return api.create_commit(repo_id, files, commit_message=message, revision=revision)

        return str(_patiently(commit).commit_url), is_private
    except (RequestFailed, OSError, RuntimeError, ValueError) as error:  # also of storage, and of what is not taken
        raise PolygraftError(f"polygraft push: {_explained(error, where, revision)}") from None


def _patiently(step: Callable[[], T]) -> T:
    """Do a step that may be done again, and again if the hub is busy, the connection fails, or a gateway answers."""
    for wait in (*WAITS, None):
        try:
            return step()
        except Exception as error:
            cause, status = _cause(error), _status(error)
            passing = status in RETRIED if status else isinstance(cause, (RequestFailed, json.JSONDecodeError))
            if wait is None or not passing:
                raise
            said = f"the hub answered {status}" if status else f"no answer ({type(cause).__name__})"
            print(f"push: {said}; trying again in {wait} s", file=sys.stderr, flush=True)
            time.sleep(wait)
    raise AssertionError


def _cause(error: BaseException) -> BaseException:
    """What failed: of the client's threads that upload they say only that they did."""
    return error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error


def _status(error: BaseException) -> int | None:
    return getattr(getattr(_cause(error), "response", None), "status_code", None)


def _explained(error: Exception, where: str, revision: str | None) -> str:
    """What a failure means, and what to do about it."""
    cause, status = _cause(error), _status(error)
    said = " ".join((getattr(cause, "server_message", None) or str(cause)).split()).rstrip(".") or type(cause).__name__
    if status == 401:
        return f"the hub does not know this token (401). {LOG_IN}"
    if status == 403:
        return (
            f"{where}: the token may not write there (403: {said}). Name a repository of your own, or make a token "
            "that may write to this one, and log in with it: `hf auth login`."
        )
    if status == 404:
        place = f"branch '{revision}' of {where}" if revision else where
        return f"{place} is not there, or not for this token (404). Check the name, and who you are: `hf auth whoami`."
    if status is not None:
        return f"{where}: the hub answered {status}: {said}.{AGAIN if status in RETRIED else ''}"
    if isinstance(cause, ValueError) and not isinstance(cause, json.JSONDecodeError):
        return f"{where}: the hub does not take it: {said}."
    return f"{where}: the upload broke off, or never began ({said}). Check the network and HF_ENDPOINT.{AGAIN}"
