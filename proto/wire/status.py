"""Errors on the wire: one table from exception to gRPC code and reason, read in both directions.

On the wire an error is google.rpc.Status with ErrorInfo (domain "polysem"), BadRequest for a wrong field and RetryInfo
for overload; from it the caller gets the same class with the same message.
"""

import re

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from polysem.proto import errors
from polysem.proto.errors import InvalidArgument, Overloaded, PolysemError

DOMAIN = "polysem"
TOO_LARGE = re.compile(r"message larger than max \((\d+) vs\. (\d+)\)")  # gRPC's own words, with RESOURCE_EXHAUSTED
MAX_MESSAGE_BYTES = 1000  # gRPC allows 8 KiB of metadata, which carries a message percent-encoded and twice in base64

# Most specific first.
_TABLE: tuple[tuple[type[PolysemError], grpc.StatusCode, str], ...] = (
    (errors.InvalidArgument, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT"),
    (errors.UnknownNeuron, grpc.StatusCode.NOT_FOUND, "UNKNOWN_NEURON"),
    (errors.UnknownIndex, grpc.StatusCode.NOT_FOUND, "UNKNOWN_INDEX"),
    (errors.UnknownModel, grpc.StatusCode.NOT_FOUND, "UNKNOWN_MODEL"),
    (errors.NotFound, grpc.StatusCode.NOT_FOUND, "NOT_FOUND"),
    (errors.DamagedIndex, grpc.StatusCode.FAILED_PRECONDITION, "DAMAGED_INDEX"),
    (errors.ForeignIndex, grpc.StatusCode.FAILED_PRECONDITION, "FOREIGN_INDEX"),
    (errors.BadCorpus, grpc.StatusCode.FAILED_PRECONDITION, "BAD_CORPUS"),
    (errors.FailedPrecondition, grpc.StatusCode.FAILED_PRECONDITION, "FAILED_PRECONDITION"),
    (errors.QuotaExceeded, grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED"),
    (errors.Overloaded, grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED"),
    (errors.DeadlineExceeded, grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"),
    (errors.Cancelled, grpc.StatusCode.CANCELLED, "CANCELLED"),
    (errors.Unauthenticated, grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED"),
    (errors.PermissionDenied, grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED"),
    (errors.WarmingUp, grpc.StatusCode.UNAVAILABLE, "WARMING_UP"),
    (errors.Unavailable, grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE"),
    (errors.Unsupported, grpc.StatusCode.UNIMPLEMENTED, "UNSUPPORTED"),
    (errors.Internal, grpc.StatusCode.INTERNAL, "INTERNAL"),
)
_BY_REASON = {reason: type_ for type_, _, reason in _TABLE}
_BY_CODE = {code: type_ for type_, code, _ in _TABLE}  # the last of a code is its most general class


def to_status(error: PolysemError, request_id: str = "") -> status_pb2.Status:
    """The status that carries the error, and the id under which the server logs the request."""
    code, reason = next((code, reason) for type_, code, reason in _TABLE if isinstance(error, type_))
    message = _cut(error.message)
    details: list[Message] = [
        error_details_pb2.ErrorInfo(
            reason=reason, domain=DOMAIN, metadata={"request_id": request_id} if request_id else {}
        )
    ]
    if isinstance(error, InvalidArgument) and error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=message)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if isinstance(error, Overloaded):
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    return status_pb2.Status(code=code.value[0], message=message, details=[_packed(d) for d in details])


def _cut(message: str) -> str:
    """The message, as far as it fits."""
    data = message.encode("utf-8", "replace")
    return message if len(data) <= MAX_MESSAGE_BYTES else data[:MAX_MESSAGE_BYTES].decode("utf-8", "ignore") + "…"


def _packed(detail: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed


def from_rpc_error(error: grpc.RpcError, target: str) -> PolysemError:
    """The exception that the server raised, or the one that says what came between."""
    code: grpc.StatusCode = error.code()
    message: str = error.details() or code.name
    status = rpc_status.from_call(error)
    if status is not None:
        return _from_status(status, code)
    if code is grpc.StatusCode.UNAVAILABLE:
        return errors.Unavailable(_unreachable(target, message))
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return errors.Unsupported(
            f"the server at {target} does not know this call ({message}): it is older than this client, or it is not "
            "a Polysem server; compare `polysem info` with `polysem --version`"
        )
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return errors.DeadlineExceeded(f"no answer from {target} in the time given; raise timeout_s or ask for less")
    if message.startswith("Failed to create channel"):
        return InvalidArgument(f"{target!r} is no address that gRPC can use ({message})", "target")
    if (sizes := TOO_LARGE.search(message)) is not None:
        n_bytes, most = sizes.groups()
        if message.startswith("CLIENT: Received"):
            return errors.Unsupported(
                f"{target} sent a message of {n_bytes} bytes; Polysem's servers send at most 1 MiB"
            )
        return InvalidArgument(
            f"the question has {n_bytes} bytes, a server reads {most}; name ranges instead of single neurons, or ask "
            "in parts"
        )
    return _BY_CODE.get(code, errors.Internal)(f"{message} (from {target})")


def _from_status(status: status_pb2.Status, code: grpc.StatusCode) -> PolysemError:
    type_ = _BY_CODE.get(code, errors.Internal)
    field, retry_after_s, request_id = "", 1.0, ""
    for detail in status.details:
        info, bad, retry = (
            error_details_pb2.ErrorInfo(),
            error_details_pb2.BadRequest(),
            error_details_pb2.RetryInfo(),
        )
        if detail.Unpack(info):
            type_ = _BY_REASON.get(info.reason, type_) if info.domain == DOMAIN else type_
            request_id = info.metadata.get("request_id", "")
        elif detail.Unpack(bad) and bad.field_violations:
            field = bad.field_violations[0].field
        elif detail.Unpack(retry):
            retry_after_s = retry.retry_delay.ToNanoseconds() / 1e9
    error: PolysemError
    if type_ is InvalidArgument:
        error = InvalidArgument(status.message, field)
    elif issubclass(type_, Overloaded):
        error = type_(status.message, retry_after_s)
    else:
        error = type_(status.message)
    error.request_id = request_id
    if request_id and request_id not in status.message:
        error.add_note(f"request {request_id} in the server's log")
    return error


def _unreachable(target: str, message: str) -> str:
    said = message.upper()
    if "SOCKET CLOSED" in said or "CONNECTION RESET" in said:
        return (
            f"{target} closed the connection ({message}): the server may want TLS: pass --ca FILE or --tls, in Python "
            "tls=…; or it was killed"
        )
    if "WRONG_VERSION_NUMBER" in said:
        return f"at {target} the server does not speak TLS: leave --tls and --ca (tls=…) away"
    if "CERTIFICATE_VERIFY_FAILED" in said or "PEER NAME" in said or "HOSTNAME VERIFICATION" in said:
        return (
            f"the certificate of {target} is not one that this client trusts for that name: pass the CA's file, "
            f"--ca FILE, in Python tls='FILE' ({message})"
        )
    return f"no Polysem server answers at {target}: start one with `polysem serve`, or check host and port ({message})"
