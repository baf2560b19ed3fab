"""Errors on the command line: a message, an exit code, no traceback; and how quiet libraries are."""

from __future__ import annotations

import errno
import logging

import pytest

from polygraft.cli.errors import quieten, without_shard_bars
from polygraft.errors import CheckpointError, DataError, RecipeError, TransferError

ERRORS = {
    "recipe": (RecipeError("bad recipe"), 2, "polygraft: bad recipe"),
    "data": (DataError("bad data"), 3, "polygraft: bad data"),
    "checkpoint": (CheckpointError("bad model"), 1, "polygraft: bad model"),
    "transfer": (TransferError("bad pair"), 1, "polygraft: bad pair"),
    "interrupted": (KeyboardInterrupt(), 130, "Run the same command again to resume"),
    "disk full": (OSError(errno.ENOSPC, "No space left on device", "out/model"), 1, "out/model: the disk is full"),
    "disk full, said by safetensors": (
        RuntimeError("I/O error: No space left on device (os error 28)"),
        1,
        "the disk is full",
    ),
    "read-only": (OSError(errno.EROFS, "Read-only file system", "out"), 1, "out: is on a read-only disk"),
    "denied": (PermissionError(errno.EACCES, "Permission denied", "out"), 1, "out: permission denied"),
    "memory": (MemoryError(), 1, "out of memory. Lower per_device_train_batch_size"),
    "a bug": (ZeroDivisionError("division by zero"), 1, "unexpected error: ZeroDivisionError: division by zero"),
}


@pytest.mark.parametrize(("error", "code", "message"), ERRORS.values(), ids=ERRORS)
def test_errors_become_a_message_and_an_exit_code(fake, monkeypatch, tmp_path, error, code, message, invoke):
    monkeypatch.delenv("POLYGRAFT_DEBUG", raising=False)

    def write(run_dir, text):
        raise error

    fake("report", write=write)
    result = invoke("report", str(tmp_path))
    assert result.exit_code == code
    assert message in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


def test_debug_shows_where_an_error_happened(fake, monkeypatch, tmp_path, invoke):
    def write(run_dir, text):
        raise DataError("bad data")

    fake("report", write=write)
    monkeypatch.setenv("POLYGRAFT_DEBUG", "1")
    assert isinstance(invoke("report", str(tmp_path)).exception, DataError)


def test_advice_of_libraries_is_silenced_and_warnings_stay():
    from transformers import modeling_utils
    from transformers.utils import import_utils

    quieten()
    assert not import_utils.logger.isEnabledFor(logging.WARNING)  # "install torchvision to use …", per class
    assert modeling_utils.logger.isEnabledFor(logging.WARNING)  # weights that are missing or do not fit


def test_bars_over_checkpoint_files_are_hidden_but_downloads_are_shown():
    from huggingface_hub.utils import are_progress_bars_disabled
    from transformers.utils import logging as transformers_logging

    before = transformers_logging.is_progress_bar_enabled()
    try:
        without_shard_bars()
        assert not transformers_logging.is_progress_bar_enabled()
        assert not are_progress_bars_disabled()
    finally:
        if before:
            transformers_logging.enable_progress_bar()
