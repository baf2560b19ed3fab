"""What the command line does with errors: one clear message, the documented exit code, no traceback for users.

POLYGRAFT_DEBUG=1 shows tracebacks. Of several processes the main one says what happened, another only what it alone
knows.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import threading
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from polygraft import processes
from polygraft.cli.flags import SWITCH
from polygraft.errors import PolygraftError, is_out_of_memory, is_panic
from polygraft.training import stopping

INTERRUPTED = 130
_FULL = {errno.ENOSPC, errno.EDQUOT}
_LEADING_NOWHERE = {errno.ELOOP, errno.ENAMETOOLONG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_RESUME = "Run the same command again to resume: finished stages are kept, training goes on from its last checkpoint."
_SMALLER = "Lower per_device_train_batch_size (gradient_accumulation_steps can make up for it) or max_length_tokens."
_NO_SPACE = "No space left on device"


class Commands(TyperGroup):
    """The group of all verbs: sets the libraries' chatter and turns exceptions into messages and exit codes."""

    def invoke(self, ctx: Any) -> Any:
        quieten()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, stopping.raise_stopped)
        if not processes.is_main():
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (as long as the process lives)
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # `polygraft generate | head`: typer ends quietly
        except BaseException as error:
            if not (isinstance(error, Exception | KeyboardInterrupt) or is_panic(error)):
                raise
            explained = explain(error)
            if explained is None or (_debugging() and not isinstance(error, KeyboardInterrupt)):
                raise
            message, code = "\n".join([explained[0], *getattr(error, "__notes__", [])]), explained[1]
            if not getattr(error, "said_by_main", False):
                typer.echo(message if processes.is_main() else f"process {processes.rank()}: {message}", err=True)
            raise typer.Exit(code) from None


class Verb(TyperCommand):
    """A verb: a switch alone is `true`; an option of one value is refused when given twice (click takes the last)."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        switches = {name for option in self.params if option.metavar == SWITCH for name in option.opts}
        for place in reversed(range(len(args))):
            if args[place] in switches and (args[place + 1 :][:1] or ["-"])[0].startswith("-"):
                args.insert(place + 1, "true")
        order: list[Any] = self.make_parser(ctx).parse_args(args=list(args))[2]
        for option in order:
            single = option.param_type_name == "option" and not (option.multiple or option.is_flag)
            if single and order.count(option) > 1:
                raise typer.BadParameter("is given twice, and takes one value. Give it once.", ctx=ctx, param=option)
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            if "extra argument" in getattr(error, "message", ""):  # a shell makes several words of data/*.jsonl
                error.message += ". An option takes one value at a time; put names with * or {…} in quotes."  # type: ignore[attr-defined]
            raise


def explain(error: BaseException) -> tuple[str, int] | None:
    """The message and the exit code for an exception; None for what typer itself handles (usage errors, exits)."""
    usage = hasattr(error, "exit_code") and hasattr(error, "format_message")  # typer has click's classes inside itself
    if usage or isinstance(error, typer.Exit | typer.Abort):
        return None
    if isinstance(error, PolygraftError):
        return f"polygraft: {error}", error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return f"polygraft: interrupted. {_RESUME}", getattr(error, "exit_code", INTERRUPTED)
    if (isinstance(error, OSError) and error.errno in _FULL) or _NO_SPACE in str(error):
        place = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
        return f"polygraft: {place}the disk is full. Free space, or choose another --output-dir, and run again.", 1
    if isinstance(error, OSError) and error.errno in _DENIED:
        return f"polygraft: {error.filename or 'a file'}: {_denied(error)}", 1
    if isinstance(error, OSError) and error.errno in _LEADING_NOWHERE:
        return f"polygraft: {error.filename or 'a file'}: {error.strerror}. Name the file itself.", 1
    if is_out_of_memory(error):
        return f"polygraft: out of memory. {_SMALLER}", 1
    if is_panic(error):  # of a text that a damaged map of characters or vocabulary has no way for
        reason = str(error).splitlines()[0]
        return f"polygraft: a tokenizer's file is damaged ({reason}). Fetch or write the model's tokenizer again.", 1
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return f"polygraft: unexpected error: {what}\nPOLYGRAFT_DEBUG=1 shows where it happened; please report it.", 1


def _denied(error: OSError) -> str:
    if error.errno == errno.EROFS:
        return "is on a read-only disk. Choose another --output-dir."
    return "permission denied. Change its permissions, or choose another --output-dir."


def _debugging() -> bool:
    return os.environ.get("POLYGRAFT_DEBUG") == "1"


def quieten() -> None:
    """Silences what libraries say on import; warnings about models and data stay."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if _debugging():
        return
    # Their advice to install torchvision and the like; set before transformers is imported, which only sets its root.
    for name in ("transformers.utils.import_utils", "torch.distributed.elastic", "torchao"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if not sys.warnoptions:
        import warnings

        warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|torch|huggingface_hub)(\.|$)")


def without_shard_bars() -> None:
    """Hides transformers' bars over the few files of a checkpoint; bars of downloads stay. Imports transformers."""
    from huggingface_hub.utils import enable_progress_bars
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # which takes the hub's bars along
    enable_progress_bars()
