"""What a server writes down: its log on stderr, and the audit log, a JSON line a call. Never a key, never a text."""

import json
import logging
import os
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from pathlib import Path

from polysem.proto.errors import FailedPrecondition
from polysem.server.paths import state_folder
from polysem.server.serving import address
from polysem.server.serving.interceptor import audit
from polysem.server.settings import Settings

AUDIT = "audit.jsonl"


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


def configure(settings: Settings) -> None:
    """Of this process. In JSON, calls are on stderr too. Raises FailedPrecondition for an audit log that cannot be."""
    stderr = logging.StreamHandler()
    if settings.log_format == "json":
        stderr.setFormatter(JsonLines())
    logging.basicConfig(handlers=[stderr], level=logging.WARNING, force=True)
    logging.getLogger("grpc._cython.cygrpc").addFilter(_of_nobody_who_left)
    audit.propagate = settings.log_format == "json"
    path = audit_path(settings)
    if path is not None:
        audit.addHandler(_audit_file(path))
    if path is not None or audit.propagate:
        audit.setLevel(logging.INFO)


def _of_nobody_who_left(record: logging.LogRecord) -> bool:
    """gRPC calls it an error where a caller left while a message was on its way; such a call ends CANCELLED here."""
    return "ExecuteBatchError" not in record.getMessage()


def audit_path(settings: Settings) -> Path | None:
    """Where the audit log goes: as named, else into the state folder where there are keys."""
    if settings.audit_log is not None:
        return settings.audit_log.expanduser()
    return state_folder(settings.state) / AUDIT if address.wants_keys(settings) else None


def _audit_file(path: Path) -> logging.Handler:
    """Appends; goes on in a new file where logrotate has taken the old one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600))
        handler = WatchedFileHandler(path)
    except OSError as error:
        raise FailedPrecondition(
            f"the audit log {path} cannot be written: {error.strerror}; name another: --audit-log"
        ) from error
    handler.setFormatter(JsonLines())
    return handler
