"""Three servers of one index: one is drained, one is killed, both under load. Does any call fail?

    python tests/load/replicas.py                 # 16 clients until 2,000 calls are done
    python tests/load/replicas.py --calls 300 --index FOLDER

Clients ask all three by turns, single neurons and every neuron of the model. After a third of the calls one server gets
SIGTERM, after two thirds another kill -9. Every answer is compared with one from before. Exit status 1 where a call
failed or answered otherwise.
"""

import argparse
import logging
import os
import sys
import tempfile
import threading
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from processes import indexed, serving, small_index

from polysem.client import Client
from polysem.proto.errors import PolysemError

N_CLIENTS = 16
EVERY = 20  # of so many calls one asks for the whole model


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--index", type=Path, help="default: the demo model over 60 documents")
    options = parser.parse_args()
    logging.getLogger("polysem").setLevel(logging.ERROR)
    failed, done, taking = [], Counter(), threading.Lock()
    with tempfile.TemporaryDirectory(prefix="polysem-replicas-") as name, ExitStack() as leaving:
        folder = Path(name)
        arguments = indexed(options.index or small_index(folder))
        drained, killed, stays = (leaving.enter_context(serving(folder / f"state-{i}", arguments)) for i in range(3))
        wanted = [neuron.labels for neuron in stays.client.cluster("*")]
        targets = [server.target for server in (drained, killed, stays)]
        numbers = iter(range(options.calls))

        def ask():
            with Client(targets, timeout_s=120) as client:
                while True:
                    with taking:
                        number = next(numbers, None)
                    if number is None:
                        return
                    if number == options.calls // 3:
                        drained.process.terminate()
                    if number == options.calls * 2 // 3:
                        killed.process.kill()
                    try:
                        if number % EVERY:
                            (neuron,) = client.cluster(f"0.{number % 50}")
                            same = np.array_equal(neuron.labels, wanted[number % 50])
                        else:
                            answer = client.cluster("*")
                            same = len(answer) == len(wanted) and all(
                                np.array_equal(neuron.labels, labels)
                                for neuron, labels in zip(answer, wanted, strict=True)
                            )
                        done["right" if same else "wrong"] += 1
                    except PolysemError as error:
                        failed.append(f"call {number}: {type(error).__name__}: {error}")

        clients = [threading.Thread(target=ask) for _ in range(N_CLIENTS)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        ends = f"drained: {drained.process.wait()}, killed: {killed.process.wait()}"
        print(f"{options.calls:,} calls by {N_CLIENTS} clients; {ends}")
    print(f"failed: {len(failed)} (target 0); answered otherwise: {done['wrong']} (target 0); right: {done['right']:,}")
    for line in failed[:10]:
        print("   ", line)
    sys.exit(bool(failed or done["wrong"]))


if __name__ == "__main__":
    os.environ["GRPC_VERBOSITY"] = "NONE"
    main()
