"""What tests of jobs do to wait for them."""

import time

from polysem.proto.facts import Selection

RULE = Selection("first", 0.5, 30)  # of the index in conftest


def finished(client, job):
    *_, last = client.jobs.watch(job.id, heartbeat_s=1)
    return last


def until(client, job, state):
    """The job, once it is in that state."""
    for _ in range(1000):
        if (now := client.jobs.get(job.id)).state == state:
            return now
        time.sleep(0.02)
    raise AssertionError(f"it stays {now.state}, and never is {state}")


def measured(client, *neurons, **options):
    """A small measure job, done."""
    job = finished(client, client.jobs.measure(*neurons, best_cut=False, **options))
    assert job.state == "done", job.error
    return job
