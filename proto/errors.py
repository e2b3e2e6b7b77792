"""Everything Polysem raises on purpose, the same class on both ends of the wire.

PolysemError
├── InvalidArgument (ValueError)       a malformed neuron id, a threshold outside its range, an unknown algorithm …
├── NotFound (LookupError)
│   ├── UnknownNeuron                  a layer or neuron that the model does not have
│   ├── UnknownIndex                   an index that the server does not hold
│   └── UnknownModel                   neither the embedded model, nor a folder, nor a hub name
├── FailedPrecondition                 what was asked for cannot work in the state things are in
│   ├── DamagedIndex                   truncated, changed, or of another version
│   ├── ForeignIndex                   made with another model's weights
│   └── BadCorpus                      a corpus that cannot be read as text
├── Overloaded                         queue full; `retry_after_s` says when to come back
│   └── QuotaExceeded                  the key has used what it may in a day
├── DeadlineExceeded (TimeoutError)
├── Cancelled
├── Unauthenticated
├── PermissionDenied (PermissionError)
├── Unavailable (ConnectionError)      no server there, or one that is draining
│   └── WarmingUp                      one that loads its model, and will answer soon
├── Unsupported                        the other end is of a version that does not know this
└── Internal                           a bug; the message says where the server logged it
"""


class PolysemError(Exception):
    """One clear sentence: what was wrong, with the value, and what to do.

    `request_id` is what the server logged the request under; empty where the error did not come from a server.
    """

    request_id = ""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidArgument(PolysemError, ValueError):
    """An argument is malformed or outside its range; `field` names it as the proto does."""

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class NotFound(PolysemError, LookupError):
    pass


class UnknownNeuron(NotFound):
    pass


class UnknownIndex(NotFound):
    pass


class UnknownModel(NotFound):
    pass


class FailedPrecondition(PolysemError):
    pass


class DamagedIndex(FailedPrecondition):
    pass


class ForeignIndex(FailedPrecondition):
    pass


class BadCorpus(FailedPrecondition):
    pass


class Overloaded(PolysemError):
    """The queue is full; come back in `retry_after_s` seconds."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class QuotaExceeded(Overloaded):
    pass


class DeadlineExceeded(PolysemError, TimeoutError):
    pass


class Cancelled(PolysemError):
    pass


class Unauthenticated(PolysemError):
    pass


class PermissionDenied(PolysemError, PermissionError):
    pass


class Unavailable(PolysemError, ConnectionError):
    pass


class WarmingUp(Unavailable):
    pass


class Unsupported(PolysemError):
    pass


class Internal(PolysemError):
    pass
