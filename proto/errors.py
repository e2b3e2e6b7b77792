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

MixedMethodsWarning (UserWarning)      a listing or ranking of exact and approximate trees, whose numbers do not compare
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
    """Something that a request names does not exist."""


class UnknownNeuron(NotFound):
    """The model has no such layer or neuron."""


class UnknownIndex(NotFound):
    """The server holds no index of that name."""


class UnknownModel(NotFound):
    """The name is neither the embedded model, nor a folder, nor a name on the hub."""


class FailedPrecondition(PolysemError):
    """The request cannot work in the present state of things."""


class DamagedIndex(FailedPrecondition):
    """An index is truncated, changed, or of another version."""


class ForeignIndex(FailedPrecondition):
    """An index was made with another model's weights."""


class BadCorpus(FailedPrecondition):
    """A corpus cannot be read as text."""


class Overloaded(PolysemError):
    """The queue is full; come back in `retry_after_s` seconds."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class QuotaExceeded(Overloaded):
    """The key has used up its quota for the day."""


class DeadlineExceeded(PolysemError, TimeoutError):
    """The answer did not come within the time given."""


class Cancelled(PolysemError):
    """The call was cancelled before its answer was complete."""


class Unauthenticated(PolysemError):
    """The server requires a key, and the call has none that it knows."""


class PermissionDenied(PolysemError, PermissionError):
    """The key may not do this."""


class Unavailable(PolysemError, ConnectionError):
    """No server answers there, or it is draining."""


class WarmingUp(Unavailable):
    """The server is loading its model and will answer soon."""


class Unsupported(PolysemError):
    """The other end has a version that does not know this."""


class Internal(PolysemError):
    """A bug. The message says where the server logged it."""


class MixedMethodsWarning(UserWarning):
    """Exact and approximate trees stand in one listing or ranking; their numbers do not compare."""
