"""Do the tests notice small changes? Mutants of the kernels (their CPU halves), the batcher, selection, the codec and
the job store, made by cosmic-ray in a copy of the repository, each met by the tests of its module.

make mutants                              all of them, hours
make mutants ARGS='kernels/scc.py'        of one module
make mutants ARGS='--sample 40'           40 of each module, drawn by --seed, or all where it has fewer
make mutants ARGS='--report'              only what earlier runs found

A mutant is killed where a test fails or hangs. `equivalent.txt` lists the survivors that change nothing which a caller
could see, with the reason; of the others at least MOST must be killed. Sessions are kept in build/mutants: a run that
was stopped goes on, survivors are met again by the tests as they are now, a module that changed begins anew, and so
does another sample.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent.parent
PYTHON = ROOT / ".venv" / "bin" / "python"
TOOL = ROOT / ".venv-mutants" / "bin"
HERE = Path(__file__).parent
BUILD = ROOT / "build" / "mutants"
MOST = 0.9

KERNELS = "tests/kernels"
MODULES: dict[str, tuple[str, ...]] = {
    "kernels/agglomerative.py": (f"{KERNELS}/test_agglomerative.py", f"{KERNELS}/test_scc.py"),
    "kernels/arrays.py": (
        f"{KERNELS}/test_agglomerative.py",
        f"{KERNELS}/test_tree.py",
        f"{KERNELS}/test_key_tokens.py",
    ),
    "kernels/definitions.py": (f"{KERNELS}/test_key_tokens.py", f"{KERNELS}/test_tree.py", f"{KERNELS}/test_scc.py"),
    "kernels/dispatch.py": (f"{KERNELS}/test_dispatch.py",),
    "kernels/distances.py": (f"{KERNELS}/test_distances.py",),
    "kernels/gram.py": (f"{KERNELS}/test_distances.py",),
    "kernels/key_tokens.py": (f"{KERNELS}/test_key_tokens.py",),
    "kernels/metrics.py": (f"{KERNELS}/test_metrics.py",),
    "kernels/parallel.py": (f"{KERNELS}/test_parallel.py",),
    "kernels/scc.py": (f"{KERNELS}/test_scc.py",),
    "kernels/tree.py": (f"{KERNELS}/test_tree.py",),
    "kernels/large/embeddings.py": (f"{KERNELS}/large",),
    "kernels/large/metrics.py": (f"{KERNELS}/large",),
    "kernels/large/neighbours.py": (f"{KERNELS}/large",),
    "kernels/large/trees.py": (f"{KERNELS}/large",),
    "proto/wire/batches.py": ("tests/proto",),
    "proto/wire/columns.py": ("tests/proto",),
    "proto/wire/names.py": ("tests/proto",),
    "proto/wire/status.py": ("tests/proto",),
    "proto/wire/tensors.py": ("tests/proto",),
    "server/indexing/selection.py": ("tests/server/indexing/test_selection.py",),
    "server/jobs/store.py": ("tests/server/jobs",),
    "server/serving/batcher.py": ("tests/server/serving/test_batcher.py",),
}
# Of cosmic-ray's operators: one change a place where several would be noticed alike.
OPERATORS = (
    *(f"ReplaceBinaryOperator_{pair}" for pair in (
        "Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul", "Mod_Mul", "Pow_Mul", "LShift_RShift",
        "RShift_LShift",
    )),
    *(f"ReplaceComparisonOperator_{pair}" for pair in (
        "Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt", "Lt_GtE", "LtE_Gt", "Gt_LtE", "GtE_Lt", "Eq_NotEq", "NotEq_Eq",
        "Is_IsNot", "IsNot_Is",
    )),
    *("ReplaceUnaryOperator_Delete_USub", "ReplaceUnaryOperator_Delete_Not", "AddNot", "NumberReplacer"),
    *("ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd", "ZeroIterationForLoop"),
    *("ReplaceBreakWithContinue", "ReplaceContinueWithBreak"),
)  # fmt: skip


class Mutant(NamedTuple):
    """A change of a module, and what became of it: killed, survived, or "" where it was not tested.

    change  the line as it was and as it became
    """

    module: str
    line: int
    change: str
    outcome: str

    @property
    def name(self) -> str:
        """What equivalent.txt calls it: without the line's number, which other changes move."""
        return f"{self.module}: {self.change}"


class Sample(NamedTuple):
    """How many mutants of a module are tested, and the seed by which they are drawn."""

    n: int
    seed: int


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("modules", nargs="*", choices=[[], *MODULES], help="default: all")
    arguments.add_argument("--report", action="store_true", help="test nothing more")
    arguments.add_argument("--sample", type=int, help="mutants to test of each module (default: all)")
    arguments.add_argument("--seed", type=int, default=0, help="by which the sample is drawn")
    given = arguments.parse_args()
    modules = given.modules or list(MODULES)
    sample = None if given.sample is None else Sample(given.sample, given.seed)
    if not given.report:
        copy_tree(compiled=any(module.startswith(("kernels/", "server/")) for module in modules))
        for module in modules:
            test(module, sample)
    sys.exit(0 if report([mutant for module in modules for mutant in mutants(module, sample)]) else 1)


def copy_tree(compiled: bool) -> None:
    """What git knows of, and files that it does not know yet, as they are now; compiled: with the kernels' code."""
    tree = BUILD / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_symlink() or (ROOT / name).exists():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name, follow_symlinks=False)
    here = os.environ | {"PYTHONPATH": str(tree / "src")}
    if compiled:
        subprocess.run([PYTHON, "-m", "polysem.kernels.warm_up"], cwd=tree, env=here, check=True)


def session(module: str, sample: Sample | None) -> Path:
    """Its mutants and what became of them; another file once the module, or the sample, is another."""
    drawn = b"" if sample is None else repr(tuple(sample)).encode()
    digest = hashlib.sha256(repr(OPERATORS).encode() + drawn + (ROOT / module).read_bytes())
    return BUILD / f"{module.replace('/', '-').removesuffix('.py')}-{digest.hexdigest()[:12]}.sqlite"


def test(module: str, sample: Sample | None) -> None:
    """Make the module's mutants and meet each with its tests; goes on where it was stopped."""
    path, settings = session(module, sample), BUILD / f"{module.replace('/', '-')}.toml"
    with warm(module) as asked:
        settings.write_text(
            f"[cosmic-ray]\nmodule-path = {json.dumps(module)}\ntimeout = 200.0\nexcluded-modules = []\n"
            f"test-command = {json.dumps(asked)}\n"
            '[cosmic-ray.distributor]\nname = "local"\n'
            f"[cosmic-ray.filters.operators-filter]\nexclude-operators = ['^core/(?!({'|'.join(OPERATORS)})$)']\n"
        )
        tree = BUILD / "tree"
        if not path.exists():
            partial = path.with_suffix(".partial")
            partial.unlink(missing_ok=True)
            subprocess.run([TOOL / "cosmic-ray", "init", settings, partial], cwd=tree, check=True)
            subprocess.run([TOOL / "cr-filter-operators", partial, settings], cwd=tree, check=True)
            if sample is not None:
                draw(partial, sample)
            partial.rename(path)
        if subprocess.run(asked.split(), cwd=tree, check=False).returncode:
            raise SystemExit(f"the tests of {module} fail without any change: pytest {' '.join(MODULES[module])}")
        print(module, flush=True)
        with closing(sqlite3.connect(path)) as results, results:
            results.execute("DELETE FROM work_results WHERE test_outcome = 'SURVIVED'")
        subprocess.run([TOOL / "cosmic-ray", "exec", settings, path], cwd=tree, check=True)


def draw(path: Path, sample: Sample) -> None:
    """Leave only a sample of a new session's mutants to be tested."""
    with closing(sqlite3.connect(path)) as db, db:
        wanted = "SELECT job_id FROM work_items WHERE job_id NOT IN (SELECT job_id FROM work_results)"
        places = "SELECT job_id FROM mutation_specs ORDER BY start_pos_row, start_pos_col, operator_name, occurrence"
        left = {job for (job,) in db.execute(wanted)}
        jobs = [job for (job,) in db.execute(places) if job in left]
        kept = set(random.Random(sample.seed).sample(jobs, min(sample.n, len(jobs))))
        db.executemany(
            "INSERT INTO work_results (job_id, worker_outcome, output) VALUES (?, 'SKIPPED', 'not drawn')",
            [(job,) for job in jobs if job not in kept],
        )


@contextmanager
def warm(module: str) -> Iterator[str]:
    """A process that tests what stands in the tree; the command that asks it."""
    path = BUILD / f"{os.getpid()}.socket"
    path.unlink(missing_ok=True)
    command = [PYTHON, HERE / "warm.py", path, module, *MODULES[module]]
    settings = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen(command, cwd=BUILD / "tree", stdout=subprocess.PIPE, env=settings) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        try:
            yield f"{sys.executable} -S {HERE / 'warm.py'} {path}"
        finally:
            process.kill()
            path.unlink(missing_ok=True)


def mutants(module: str, sample: Sample | None) -> Iterator[Mutant]:
    """Those of a session, as far as it has got."""
    path = session(module, sample)
    if not path.exists():
        return
    dumped = subprocess.run([TOOL / "cosmic-ray", "dump", path], capture_output=True, check=True).stdout
    for line in dumped.decode().splitlines():
        item, result = json.loads(line)
        if result is not None and result["worker_outcome"] in ("skipped", "no-test"):
            continue
        yield Mutant(module, item["mutations"][0]["start_pos"][0], *_outcome(result))


def _outcome(result: dict[str, Any] | None) -> tuple[str, str]:
    """The change, and what became of it."""
    if result is None:
        return "", ""
    lines = [
        line for line in (result["diff"] or "").splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")
    ]
    return " → ".join(line[1:].strip() for line in lines), result["test_outcome"] or ""


def equivalent() -> dict[str, str]:
    """The reason of each mutant in equivalent.txt: a reason is a line that begins with #, its mutants follow."""
    reasons, reason = {}, ""
    for line in (HERE / "equivalent.txt").read_text("utf-8").splitlines():
        if line.startswith("#"):
            reason = line.removeprefix("#").strip()
        elif line.strip():
            reasons[line.strip()] = reason
    return reasons


def report(found: list[Mutant]) -> bool:
    """Print a row a module and the survivors; whether enough were killed."""
    known = equivalent()
    print(f"{'module':32} mutants  killed  equivalent  survived  untested  share killed")
    rows = {module: [mutant for mutant in found if mutant.module == module] for module in MODULES}
    for name, rows_of in [*rows.items(), ("all", found)]:
        if rows_of:
            _print_row(name, rows_of, known)
    for mutant in found:
        if mutant.outcome == "survived" and mutant.name not in known:
            print(f"{mutant.module}:{mutant.line}: {mutant.change}")
    return _share(found, known) >= MOST


def _print_row(name: str, found: list[Mutant], known: dict[str, str]) -> None:
    killed = sum(mutant.outcome == "killed" for mutant in found)
    same = sum(mutant.outcome == "survived" and mutant.name in known for mutant in found)
    survived = sum(mutant.outcome == "survived" for mutant in found) - same
    untested = len(found) - killed - same - survived
    print(f"{name:32} {len(found):7} {killed:7} {same:11} {survived:9} {untested:9}  {_share(found, known):.1%}")


def _share(found: list[Mutant], known: dict[str, str]) -> float:
    killed = sum(mutant.outcome == "killed" for mutant in found)
    survived = sum(mutant.outcome == "survived" and mutant.name not in known for mutant in found)
    return killed / max(killed + survived, 1)


if __name__ == "__main__":
    main()
