"""Logs of a server: its log on stderr, and the audit log, a JSON line a call. Never a key, never a text."""

import json
import logging
import os
import re
import sys
import threading
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from polysem.proto.errors import FailedPrecondition
from polysem.server.paths import state_folder
from polysem.server.serving import address
from polysem.server.serving.audit import AuditFile, audit
from polysem.server.serving.books import Books
from polysem.server.serving.small_file import DISK_FULL
from polysem.server.settings import Settings

AUDIT = "audit.jsonl"
OF_GRPC = re.compile(r"[IWEF]\d{4} |WARNING: All log messages before absl")  # how lines of its core begin

log = logging.getLogger(__name__)


class JsonLines(logging.Formatter):
    """A record as one JSON object; what `extra={"fields": …}` holds joins it."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class _Stderr(logging.StreamHandler):  # type: ignore[type-arg]
    """A log that cannot be written, where stderr is a file on a full disk, is no error of the call that it is about."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        pass


def configure(settings: Settings, books: Books | None = None) -> None:
    """Set the logging of this process. In JSON, calls are on stderr too, and nothing else but JSON is.

    Raises FailedPrecondition for an audit log that cannot be.
    """
    json_ = settings.log_format == "json"
    stderr = _Stderr()
    stderr.addFilter(_without_grpc)
    if json_:
        stderr.setFormatter(JsonLines())
    logging.basicConfig(handlers=[stderr], level=logging.WARNING, force=True)
    audit.propagate = json_
    path = audit_path(settings)
    if path is not None:
        audit.addHandler(_audit_file(path, books or Books(), settings))
    if path is not None or audit.propagate:
        audit.setLevel(logging.INFO)


def everything_as_json() -> None:
    """Make JSON lines of all that this process writes to stderr, whoever writes it, from here on; after `configure`."""
    (stderr,) = (handler for handler in logging.getLogger().handlers if isinstance(handler, _Stderr))
    stderr.setStream(os.fdopen(os.dup(2), "w", encoding="utf-8", errors="backslashreplace"))
    reading, writing = os.pipe()
    os.dup2(writing, 2)
    os.close(writing)
    threading.Thread(target=_log_lines, args=(os.fdopen(reading, errors="replace"),), daemon=True).start()
    logging.getLogger("polysem").setLevel(logging.INFO)
    logging.captureWarnings(True)
    warnings.simplefilter("default", append=True)
    sys.excepthook = lambda type_, error, trace: log.critical("the server ends", exc_info=(type_, error, trace))
    threading.excepthook = lambda args: log.error("a thread ended", exc_info=args.exc_value)


def _log_lines(lines: IO[str]) -> None:
    said = logging.getLogger("stderr")
    for line in lines:
        if line.strip() and not OF_GRPC.match(line):
            said.warning("%s", line.rstrip())


def _without_grpc(record: logging.LogRecord) -> bool:
    """gRPC's own lines may hold what a caller sent, its key among it; of an error only its kind stays."""
    if not record.name.startswith("grpc"):
        return True
    kind = record.exc_info[0] if record.exc_info else None
    # A header that is not UTF-8, and a caller who left while a message was on its way: neither is an error here.
    if record.levelno < logging.ERROR or kind is None or kind.__name__ in ("UnicodeDecodeError", "ExecuteBatchError"):
        return False
    record.msg, record.args, record.exc_info, record.exc_text = f"gRPC met {kind.__name__}", (), None, None
    return True


def audit_path(settings: Settings) -> Path | None:
    """Return where the audit log goes: as named, else into the state folder where there are keys."""
    if settings.audit_log is not None:
        return Path(os.path.expanduser(settings.audit_log))
    return state_folder(settings.state) / AUDIT if address.wants_keys(settings) else None


def _audit_file(path: Path, books: Books, settings: Settings) -> logging.Handler:
    handler = AuditFile(path, books, settings.audit_max_bytes, settings.audit_days)
    handler.setFormatter(JsonLines())
    try:
        handler.open()
    except OSError as error:
        if error.errno in DISK_FULL:
            books.failed(path.name, error)
        else:
            raise FailedPrecondition(
                f"the audit log {path} cannot be written: {error.strerror}; name another: --audit-log"
            ) from error
    return handler
