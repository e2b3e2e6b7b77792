"""Errors over the wire: raised on one side, the same in the caller's hands on the other."""

import inspect

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from polysem.proto import errors
from polysem.proto.errors import InvalidArgument, Overloaded, PolysemError
from polysem.proto.wire import status

CLASSES = sorted(
    (
        type_
        for _, type_ in inspect.getmembers(errors, inspect.isclass)
        if issubclass(type_, PolysemError) and type_ is not PolysemError
    ),
    key=lambda type_: type_.__name__,
)


class FailedCall(grpc.RpcError):
    """What a stub raises: code, details, and trailing metadata."""

    def __init__(self, code, details, trailing_metadata=()):
        self._parts = code, details, trailing_metadata

    def code(self):
        return self._parts[0]

    def details(self):
        return self._parts[1]

    def trailing_metadata(self):
        return self._parts[2]


def failed_call(message: status_pb2.Status):
    sent = rpc_status.to_status(message)
    return FailedCall(sent.code, sent.details, sent.trailing_metadata)


def there_and_back(error):
    return status.from_rpc_error(failed_call(status.to_status(error)), "host:1")


def error_info(error):
    info = error_details_pb2.ErrorInfo()
    assert status.to_status(error).details[0].Unpack(info)
    return info


@pytest.mark.parametrize("type_", CLASSES)
def test_an_error_arrives_as_its_own_class_with_its_message(type_):
    back = there_and_back(type_("no neuron 7.4000 («é», 日本): the model has 3072"))
    assert type(back) is type_
    assert back.message == str(back) == "no neuron 7.4000 («é», 日本): the model has 3072"


def test_every_class_has_a_reason_of_its_own():
    reasons = {type_: error_info(type_("x")).reason for type_ in CLASSES}
    assert len(set(reasons.values())) == len(CLASSES)
    for type_, reason in reasons.items():
        assert reason.replace("_", "") == type_.__name__.upper()
        assert error_info(type_("x")).domain == "polysem"


@pytest.mark.parametrize("field", ["neurons", "distance_threshold", ""])
def test_a_wrong_field_arrives_with_its_name(field):
    back = there_and_back(InvalidArgument("far too wide", field))
    assert back.field == field


def test_a_wrong_field_is_described_for_other_languages():
    details = status.to_status(InvalidArgument("far too wide", "distance_threshold")).details
    bad = error_details_pb2.BadRequest()
    assert any(detail.Unpack(bad) for detail in details)
    assert [(v.field, v.description) for v in bad.field_violations] == [("distance_threshold", "far too wide")]


@pytest.mark.parametrize("seconds", [0.0, 0.25, 1.0, 90.5])
def test_overload_arrives_with_the_time_to_come_back(seconds):
    assert there_and_back(Overloaded("full", seconds)).retry_after_s == seconds


def test_python_knows_the_errors_too():
    assert issubclass(errors.InvalidArgument, ValueError)
    assert issubclass(errors.UnknownNeuron, LookupError)
    assert issubclass(errors.DeadlineExceeded, TimeoutError)
    assert issubclass(errors.PermissionDenied, PermissionError)
    assert issubclass(errors.Unavailable, ConnectionError)


@pytest.mark.parametrize(
    ("code", "type_"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, errors.InvalidArgument),
        (grpc.StatusCode.NOT_FOUND, errors.NotFound),
        (grpc.StatusCode.FAILED_PRECONDITION, errors.FailedPrecondition),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, errors.Overloaded),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.DeadlineExceeded),
        (grpc.StatusCode.CANCELLED, errors.Cancelled),
        (grpc.StatusCode.UNAUTHENTICATED, errors.Unauthenticated),
        (grpc.StatusCode.PERMISSION_DENIED, errors.PermissionDenied),
        (grpc.StatusCode.UNAVAILABLE, errors.Unavailable),
        (grpc.StatusCode.UNIMPLEMENTED, errors.Unsupported),
        (grpc.StatusCode.INTERNAL, errors.Internal),
        (grpc.StatusCode.UNKNOWN, errors.Internal),
        (grpc.StatusCode.DATA_LOSS, errors.Internal),
        (grpc.StatusCode.ABORTED, errors.Internal),
    ],
)
@pytest.mark.parametrize("details", ["it broke", "", None])
def test_a_code_without_details_becomes_its_most_general_class(code, type_, details):
    error = status.from_rpc_error(FailedCall(code, details), "host:1")
    assert type(error) is type_
    assert "host:1" in str(error)


def test_a_server_that_is_not_there_is_told_with_its_address():
    error = status.from_rpc_error(FailedCall(grpc.StatusCode.UNAVAILABLE, "Connection refused"), "gpu-box:50051")
    assert "no Polysem server answers at gpu-box:50051: start one with `polysem serve`" in str(error)


@pytest.mark.parametrize(
    ("details", "words"),
    [
        ("Socket closed", "gpu-box:50051 closed the connection (Socket closed): the server may want TLS: pass --ca"),
        ("SSL_ERROR_SSL: WRONG_VERSION_NUMBER", "at gpu-box:50051 the server does not speak TLS: leave --tls"),
        ("CERTIFICATE_VERIFY_FAILED", "the certificate of gpu-box:50051 is not one that this client trusts"),
    ],
)
def test_a_connection_that_fails_hints_at_tls(details, words):
    error = status.from_rpc_error(FailedCall(grpc.StatusCode.UNAVAILABLE, details), "gpu-box:50051")
    assert words in str(error)


def test_the_id_of_a_request_comes_along():
    sent = status.to_status(errors.NotFound("there is none"), "1a2b3c")
    got = status._from_status(sent, grpc.StatusCode.NOT_FOUND)
    assert (got.request_id, str(got)) == ("1a2b3c", "there is none")
    assert "request 1a2b3c in the server's log" in got.__notes__


def test_a_used_up_quota_is_an_overload_of_its_own():
    sent = status.to_status(errors.QuotaExceeded("come back tomorrow", 3600.0))
    got = status._from_status(sent, grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert (type(got), got.retry_after_s) == (errors.QuotaExceeded, 3600.0)


def test_an_unknown_call_hints_at_versions():
    error = status.from_rpc_error(FailedCall(grpc.StatusCode.UNIMPLEMENTED, "Method not found!"), "gpu-box:50051")
    assert "older than this client" in str(error)


def test_a_reason_of_a_newer_server_becomes_the_class_of_its_code():
    sent = status.to_status(errors.UnknownNeuron("gone"))
    sent.details[0].Pack(error_details_pb2.ErrorInfo(reason="UNKNOWN_JOB", domain="polysem"))
    back = status.from_rpc_error(failed_call(sent), "host:1")
    assert type(back) is errors.NotFound
    assert back.message == "gone"


def test_a_reason_of_somebody_else_is_not_ours():
    sent = status.to_status(errors.Unavailable("proxy"))
    sent.details[0].Pack(error_details_pb2.ErrorInfo(reason="UNKNOWN_NEURON", domain="proxy.example"))
    assert type(status.from_rpc_error(failed_call(sent), "host:1")) is errors.Unavailable


def test_a_very_long_message_is_cut_to_what_metadata_can_carry():
    for message in ("x" * 100_000, "日" * 100_000):
        sent = status.to_status(InvalidArgument(message, "index"))
        assert len(sent.SerializeToString()) < 4_000  # gRPC takes 8 KiB of metadata, and carries the message twice
        assert sent.message.startswith(message[:300])
