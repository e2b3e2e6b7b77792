"""A job's result on its way to a file: whose errors are told as the disk's, and whose as they are."""

import errno
from datetime import UTC, datetime

import pytest

from polysem.client.jobs import Download
from polysem.proto.errors import DeadlineExceeded, FailedPrecondition, Unavailable
from polysem.proto.jobs import Job, MeasureSpec


@pytest.fixture
def download(tmp_path):
    return Download(Job("job", MeasureSpec(), "done", datetime.now(UTC), result_bytes=3), tmp_path / "out", False)


@pytest.mark.parametrize("error", [DeadlineExceeded("no answer in 5 s"), Unavailable("the server is away")])
def test_errors_of_the_call_stay_what_they_are(download, error):
    with pytest.raises(type(error), match=str(error)) as raised, download.receiving():
        raise error
    assert raised.value is error


def test_a_full_disk_is_told_with_the_file(download):
    words = r"cannot write '.*out': No space left on device; what has come is kept in"
    with pytest.raises(FailedPrecondition, match=words), download.receiving():
        raise OSError(errno.ENOSPC, "No space left on device")
