"""Runs the jobs of a store, one after another, in a thread of its own.

A job makes all that it makes in state/jobs/ID, shard by shard, and the store learns of its end only when the result is
there. So a server killed at any moment finds the job still running, calls the same function again, and that goes on
with the finished shards.

The model is read by one thread at a time, the batcher's. Clusterings of a measure job are requests like any other. The
forwards of an index job are handed to that same thread one batch of few tokens at a time, so a caller waits at most for
one of them; all else that a build does (tokenising, choosing, writing) stays in this thread.
"""

import asyncio
import copy
import hashlib
import logging
import os
import shutil
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from polysem.client.measuring.measure import Measuring, variants
from polysem.proto.clusterer import Clusterer
from polysem.proto.errors import InvalidArgument, PolysemError
from polysem.proto.jobs import IndexSpec, Job, JobSpec, JobState, MeasureSpec
from polysem.proto.work.shards import Executor, LocalExecutor
from polysem.server.corpus.documents import Corpus
from polysem.server.index.format import MANIFEST, open_index
from polysem.server.indexing import builder, widths
from polysem.server.indexing.builder import Recipe
from polysem.server.indexing.negatives import MOST
from polysem.server.jobs.arithmetic import elsewhere
from polysem.server.jobs.saes import Saes
from polysem.server.jobs.store import JobStore, Task
from polysem.server.jobs.uploads import Corpora
from polysem.server.local_client import JOBS, LocalClient
from polysem.server.model import latent_model
from polysem.server.model.model import Model, ModelDescription, Past, Visit
from polysem.server.questions.engine import Engine
from polysem.server.ray_cluster.driver import ray_executor
from polysem.server.ray_cluster.pool import RayOptions
from polysem.server.ray_cluster.sessions import RemoteClient, building, index_payload
from polysem.server.serving.batcher import Batcher
from polysem.server.serving.callers import Caller
from polysem.server.serving.keys import Keys
from polysem.server.serving.shortage import Redaction, is_full, shortage

log = logging.getLogger(__name__)

BATCH_TOKENS = {"cpu": 256, "cuda": 4096}  # of an index job's forwards: what a caller may have to wait for
TIDY_S = 60.0
LOOK_S = 2.0  # how often a job at work is seen to have room and an owner
MEASUREMENTS = "measurements.parquet"
MAX_RANGES = 4096  # of neurons in a job, which is read anew at each look


class JobProgress(NamedTuple):
    """Progress of the running job."""

    id: str
    stage: str = ""
    done: int = 0
    total: int = 0


class _StoppingError(Exception):
    """The server stops; the job goes on when it starts again."""


class _CancelledError(Exception):
    pass


class JobRunner:
    """Lives from `start` to `stop`, beside the event loop."""

    def __init__(
        self,
        store: JobStore,
        corpora: Corpora,
        engine: Engine,
        batcher: Batcher,
        keys: Keys | None = None,
        ray: RayOptions | None = None,
        redaction: Redaction = Redaction(()),
        saes: Saes = Saes(()),
    ) -> None:
        self._store, self._corpora, self._engine, self._batcher = store, corpora, engine, batcher
        self._keys, self._ray, self._redaction, self._saes = keys, ray, redaction, saes
        self.progress = JobProgress("")
        self._telling = threading.Lock()
        self._wake = threading.Event()
        self._cancelled: set[str] = set()
        self._stopping = False
        self._tidied = self._looked = 0.0
        self._thread = threading.Thread(target=self._work, name="polysem-jobs", daemon=True)

    def start(self) -> None:
        """Let requests name the indexes that jobs made, and go on with what was interrupted."""
        self._client = self._at_work = LocalClient(self._engine, self._batcher, asyncio.get_running_loop())
        for folder, owner, shared in self._store.indexes():
            try:
                self._serve(folder, owner, shared)
            except PolysemError as error:
                log.warning("an index that a job made is not served: %s", error)
        self._thread.start()

    async def stop(self) -> None:
        """Returns once nothing of a job runs any more; the event loop and the batcher must go on meanwhile."""
        self._stopping = True
        self._wake.set()
        self._at_work.close()
        await asyncio.to_thread(self._thread.join)

    def wake(self) -> None:
        """There is a job to do."""
        self._wake.set()

    def cancel(self, id_: str) -> None:
        """Let go of the job, where it is the running one."""
        self._cancelled.add(id_)
        self._wake.set()

    def seen(self, job: Job) -> Job:
        """The job with its progress, where it is the running one, or with notes on the index that it made."""
        if job.state == "done" and isinstance(job.spec, IndexSpec):
            made = self._engine.made_in(self._store.job_folder(job.id))
            return job if made is None else replace(job, notes=tuple(made.info.notes))
        now = self.progress
        if now.id != job.id or job.state != "running":
            return job
        return replace(job, stage=now.stage, done=now.done, total=now.total)

    # ---- What can be run

    def check(self, spec: JobSpec, caller: Caller) -> tuple[JobSpec, str]:
        """The spec with defaults filled in, and its corpus' reference.

        Raises what would make the job fail, as far as it is known beforehand.
        """
        if isinstance(spec, MeasureSpec):
            if len(spec.neurons) > MAX_RANGES:
                raise InvalidArgument(
                    f"the job names {len(spec.neurons):,} ranges of neurons; name at most {MAX_RANGES:,}, such as "
                    "7.0-99, 7.* or *",
                    "neurons",
                )
            self._measuring(spec, self._client.of(caller))
            return replace(spec, index=spec.index or self._engine.default_index), ""
        _recipe(spec).check(self._engine.model)
        self._check_name(spec.name)
        if spec.units:
            self._saes.units(spec.units)
        others = [owner for owner in self._engine.shared(spec.name) if owner != caller.key]
        if spec.shared and others:
            raise InvalidArgument(
                f"the key {others[0]} shares an index {spec.name!r} already; take another name", "name"
            )
        return spec, self._corpora.reference(spec.corpus, caller)

    @property
    def batch_tokens(self) -> int:
        """Tokens a forward of a new job; small where the device is shared with callers."""
        return (BATCH_TOKENS if self._ray is None else builder.BATCH_TOKENS)[self._engine.model.device.type]

    def _check_name(self, name: str) -> None:
        """Raise InvalidArgument where the operator's own index has it."""
        if self._engine.is_operators(name):
            raise InvalidArgument(f"the server has an index {name!r} already; take another name", "name")

    def _corpus(self, task: Task, spec: IndexSpec) -> Corpus:
        most = spec.max_documents or None
        return self._corpora.open(
            task.corpus or spec.corpus, spec.text_field, spec.skip_bad_documents, most, self._ray is not None
        )

    def _measuring(self, spec: MeasureSpec, client: Clusterer) -> Measuring:
        return Measuring(
            client,
            [str(neurons) for neurons in spec.neurons],
            variants(spec.algorithms, spec.embeddings, spec.layer_norms, spec.linkage, spec.frames),
            distance_threshold=spec.distance_threshold,
            best_cut=spec.best_cut,
            index=spec.index or None,
            side=spec.side,
            n_null=spec.n_null,
            seed=spec.seed,
        )

    # ---- The thread

    def _work(self) -> None:
        while not self._stopping:
            self._wake.clear()
            try:
                self.tidy()
                task = self._store.next()
                if task is not None:
                    self._run(task)
                    continue
            except Exception:
                log.exception("the job runner failed; retrying in %g s", TIDY_S)
            self._wake.wait(TIDY_S)

    def tidy(self) -> None:
        """Remove what ended jobs and expired uploads left. Any thread may, at any time."""
        self._tidied = time.monotonic()
        for id_ in self._store.uncleared():
            folder = self._store.job_folder(id_)
            self._engine.remove_from(folder)
            shutil.rmtree(folder, ignore_errors=True)
            if not folder.exists():
                try:
                    self._store.clear(id_)
                except sqlite3.Error as error:
                    if not is_full(error):
                        raise
            self._cancelled.discard(id_)
        self._corpora.tidy()
        self._store.room.set_aside()

    def _run(self, task: Task) -> None:
        try:
            self._store.finish_done(task.id, *self._result(task))
        except _StoppingError:
            pass
        except _CancelledError:
            self._end(task, "cancelled")
        except Exception as error:
            if not (self._stopping and isinstance(error, PolysemError)):
                self._end(task, "failed", self._reason(task, error))
        finally:
            with self._telling:
                self.progress = JobProgress("")

    def _end(self, task: Task, state: JobState, error: str = "") -> None:
        """The job has ended without a result. What it made goes first: it may have filled the disk."""
        shutil.rmtree(self._store.job_folder(task.id), ignore_errors=True)
        self._store.finish(task.id, state, error)

    def _reason(self, task: Task, error: Exception) -> str:
        """Why the job failed, for its owner to read."""
        if (lacks := shortage(error)) is not None:
            return lacks.message
        if isinstance(error, PolysemError):
            return self._redaction.text(error.message)
        number = uuid.uuid4().hex[:12]
        log.error("internal error %s in job %s", number, task.id, exc_info=error)
        return f"something went wrong in the server; its log has the details under {number}"

    def _result(self, task: Task) -> tuple[Path, str]:
        """The finished job's result, and its sha256."""
        if self._store.is_cancelled(task.id):
            raise _CancelledError
        self._look(task)
        self.progress = JobProgress(task.id)
        folder = self._store.job_folder(task.id)
        folder.mkdir(exist_ok=True)
        if isinstance(task.spec, IndexSpec):
            result = self._index(task, task.spec, folder)
        else:
            result = self._measure(task, task.spec, folder)
        for made in (result.parent, folder, folder.parent):
            _sync(made)
        with result.open("rb") as file:
            return result, hashlib.file_digest(file, "sha256").hexdigest()

    def _measure(self, task: Task, spec: MeasureSpec, folder: Path) -> Path:
        out = folder / MEASUREMENTS
        if not out.exists():  # else the server was killed before it could say so
            with self._asked(task, spec) as (client, executor):
                measuring = self._measuring(spec, client)
                measuring.run(out, partial(self._report, task, "cluster", total=measuring.n_trees), executor=executor)
        shutil.rmtree(out.with_name(out.name + ".tmp"), ignore_errors=True)
        return out

    @contextmanager
    def _asked(self, task: Task, spec: MeasureSpec) -> Iterator[tuple[Clusterer, Executor]]:
        """Who is asked of the index, and where that goes on."""
        if self._ray is not None:
            index = self._engine.seen_by(self._caller(task).scope).index(spec.index)
            held = index_payload(index, self._engine.model)
            with ray_executor(held, self._ray, lambda status: self._go_on(task)) as executor:
                yield RemoteClient(executor), executor
            return
        self._at_work = self._client.of(self._caller(task))
        try:
            with elsewhere() as make:
                yield self._at_work, LocalExecutor(self._at_work, make)
        finally:
            self._at_work.close()  # what it asked last would go on else

    def _index(self, task: Task, spec: IndexSpec, folder: Path) -> Path:
        out = folder / spec.name
        if not out.exists():
            report = partial(self._report, task)
            with self._reads(task, spec) as (model, executor):
                at_once = widths.batch_tokens(model, task.batch_tokens)
                builder.build(model, self._corpus(task, spec), out, _recipe(spec), report, at_once, executor=executor)
        shutil.rmtree(out.with_name(out.name + ".tmp"), ignore_errors=True)
        self._serve(out, task.owner, spec.shared)
        return out / MANIFEST

    @contextmanager
    def _reads(self, task: Task, spec: IndexSpec) -> Iterator[tuple[ModelDescription, Executor | None]]:
        """Yield what reads the corpus, and where."""
        model = self._engine.model
        if spec.units:
            model = latent_model.of(model, self._saes.units(spec.units), spec.layers)
        if self._ray is None:
            yield _between_batches(model, self._batcher, self._caller(task)), None
            return
        corpus = self._corpus(task, spec)
        with building(model, corpus, "auto", self._ray, lambda status: self._go_on(task)) as found:
            yield found

    def _serve(self, folder: Path, owner: str, shared: bool) -> None:
        """Let requests name the index."""
        self._check_name(folder.name)
        self._engine.add(open_index(folder), owner, shared)

    def _caller(self, task: Task) -> Caller:
        """For whom the job works. Raises Unauthenticated where that key has been revoked."""
        return JOBS if self._keys is None or not task.owner else self._keys.job_of(task.owner)

    def _look(self, task: Task) -> None:
        """Raise Unauthenticated where the job's key has been revoked, Overloaded where results have no more room."""
        self._caller(task)
        self._store.room.check()
        self._store.check_result_room(task.owner, self._store.disk_bytes(task.id))
        self._looked = time.monotonic()

    def _go_on(self, task: Task) -> None:
        """Raise where the job must not."""
        if self._stopping:
            raise _StoppingError
        if task.id in self._cancelled:
            raise _CancelledError
        if time.monotonic() - self._looked > LOOK_S:
            self._look(task)

    def _report(self, task: Task, stage: str, n: int, total: int | None) -> None:
        id_ = task.id
        self._go_on(task)
        with self._telling:
            if self.progress.id != id_:  # a thread of a job that has ended
                raise _CancelledError
            before = self.progress.done if self.progress.stage == stage else 0
            self.progress = JobProgress(id_, stage, before + n, total or 0)
        if time.monotonic() - self._tidied > TIDY_S:
            self.tidy()


def _between_batches(model: Model, batcher: Batcher, caller: Caller) -> Model:
    """Return the model with forwards that run in the batcher's thread, at the caller's cost."""

    def read(tokens: Tensor, visit: Visit | None, last_layer: int | None = None, past: Past = ()) -> None:
        cost = float(model.reading_cost(np.array(tokens.numel())))
        batcher.between_batches(lambda: model.read(tokens, visit, last_layer, past), caller, cost)

    seen = copy.copy(model)
    seen.read = read  # type: ignore[method-assign]
    return seen


def _sync(folder: Path) -> None:
    """Make the names in a folder outlive a power cut: the database will say that they are there."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _recipe(spec: IndexSpec) -> Recipe:
    length, sides = spec.context_length or None, spec.sides or None
    negatives = MOST if spec.negatives is None else spec.negatives
    return Recipe(spec.selection, length, spec.windows, spec.bos, sides, spec.layers, spec.skip_positions, negatives)
