"""Guard for when the device's memory does not suffice: an answer in words, and the memory is let go."""

import traceback

import torch

from polysem.proto.errors import FailedPrecondition

# Of libraries that raise RuntimeError: CUDA's and cuBLAS's words by torch and RAFT, and those of torch's CPU allocator.
WORDS = ("out of memory", "out_of_memory", "ALLOC_FAILED", "bad_alloc", "can't allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it says so: torch's class, MemoryError (RMM, CuPy, NumPy), or a RuntimeError with such words."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in WORDS)


def in_words(error: Exception, what: str = "this request", remedy: str = "ask for less at once") -> FailedPrecondition:
    """The answer where memory ran out. The tensors that the failed call left behind go, and so does torch's cache."""
    traceback.clear_frames(error.__traceback__)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return FailedPrecondition(f"the device has not enough memory free for {what}; {remedy}, or free its memory")
