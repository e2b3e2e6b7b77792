"""A real server inside this process, for notebooks and tests: `polysem.server.local`."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

from polysem.client import Client
from polysem.server import app
from polysem.server.opening import open_engine
from polysem.server.serving import address
from polysem.server.settings import Settings


@contextmanager
def local(
    *index: str | Path,
    model: str | None = None,
    units: str = "",
    device: str = "auto",
    dtype: str = "float32",
    state: str | Path | None = None,
    measurements: Sequence[str | Path] = (),
) -> Iterator[Client]:
    """A client of a server that runs in this process on a free loopback port, and stops on leaving.

    index   folders, the first is the default; none: the demo's index, built if missing (about a minute)
    model   the indexes' model, where it is no longer at its place
    units   sae:FOLDER of an index's latents, where it is no longer at its place
    device  cpu, cuda, cuda:N, or auto
    dtype   float32, tf32 (GPUs) or bfloat16, of the model's arithmetic
    state   folder of jobs, uploads and results; None: they go with the server
    measurements
            files of `polysem measure --null` whose tests listings show, in place of those that an index holds

    Raises what `polysem serve` would tell: NotFound, DamagedIndex, ForeignIndex, UnknownModel, InvalidArgument.
    """
    with TemporaryDirectory(prefix="polysem-jobs-") if state is None else nullcontext(state) as folder:
        settings = Settings(
            index=[Path(one) for one in index],
            measurements=[Path(one) for one in measurements],
            model=model,
            units=units,
            port=0,
            device=device,
            dtype=dtype,  # type: ignore[arg-type]
            state=Path(folder),
        )
        with _running(settings) as client:
            yield client


@contextmanager
def _running(settings: Settings) -> Iterator[Client]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="polysem-server", daemon=True)
    thread.start()
    stopped = asyncio.Event()
    port: Future[int] = Future()

    async def run() -> None:
        try:
            async with app.running(settings, lambda: open_engine(settings, warm=False)) as number:
                port.set_result(number)
                await stopped.wait()
        except BaseException as error:
            if port.done():
                raise
            port.set_exception(error)

    task = asyncio.run_coroutine_threadsafe(run(), loop)
    try:
        with Client(address.target(settings, port.result()), token="") as client:
            yield client
    finally:
        loop.call_soon_threadsafe(stopped.set)
        if port.done() and port.exception() is None:
            task.result()  # drained
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
