"""Do the tests notice small changes? Mutants of the kernels (their CPU halves), the batcher, selection, the codec, the
job store, names and maps, made by cosmic-ray in a copy of the repository, each met by the tests of its module.

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
import shlex
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
WIRE = "tests/proto/wire"
NAMING = "tests/server/naming"
SMALL = ("-k", "not thousand and not 257")  # by the interpreter
MODULES: dict[str, tuple[str, ...]] = {
    "kernels/agglomerative.py": (f"{KERNELS}/test_agglomerative.py", f"{KERNELS}/test_merged_list.py", *SMALL),
    "kernels/arrays.py": (f"{KERNELS}/test_arrays.py",),
    "kernels/definitions.py": tuple(
        f"{KERNELS}/test_{name}.py" for name in ("tree", "scc", "key_tokens", "gates", "logit_effects", "agglomerative")
    ),
    "kernels/dispatch.py": (f"{KERNELS}/test_dispatch.py",),
    "kernels/distances.py": (f"{KERNELS}/test_distances.py",),
    "kernels/gates.py": (f"{KERNELS}/test_gates.py",),
    "kernels/gram.py": (f"{KERNELS}/test_distances.py",),
    "kernels/key_tokens.py": (f"{KERNELS}/test_key_tokens.py", *SMALL),
    "kernels/logit_effects.py": (f"{KERNELS}/test_logit_effects.py",),
    "kernels/metrics.py": (f"{KERNELS}/test_metrics.py", *SMALL),
    "kernels/null_silhouettes.py": (f"{KERNELS}/gpu/test_gpu_null_silhouettes.py", "-k", "not 100"),
    "kernels/parallel.py": (f"{KERNELS}/test_parallel.py",),
    "kernels/products.py": (f"{KERNELS}/test_products.py",),
    "kernels/rotations.py": (f"{KERNELS}/test_rotations.py",),
    "kernels/rows.py": (f"{KERNELS}/test_rows.py",),
    "kernels/scc.py": (f"{KERNELS}/test_scc.py", *SMALL),
    "kernels/significance.py": (f"{KERNELS}/test_significance.py",),
    "kernels/silhouettes.py": (f"{KERNELS}/test_silhouettes.py",),
    "kernels/splits.py": (f"{KERNELS}/test_splits.py",),
    "kernels/stability.py": (f"{KERNELS}/test_stability.py", f"{KERNELS}/test_stability_cases.py"),
    "kernels/tree.py": (f"{KERNELS}/test_tree.py", *SMALL),
    "kernels/large/embeddings.py": (f"{KERNELS}/large/test_neighbours.py", f"{KERNELS}/large/test_trees.py", *SMALL),
    "kernels/large/metrics.py": (f"{KERNELS}/large/test_trees.py", *SMALL),
    "kernels/large/neighbour_tree.py": (f"{KERNELS}/large/test_neighbour_tree.py",),
    "kernels/large/neighbours.py": (f"{KERNELS}/large/test_neighbours.py", f"{KERNELS}/large/test_neighbour_tree.py"),
    "kernels/large/trees.py": (f"{KERNELS}/large/test_trees.py", *SMALL),
    "proto/wire/batches.py": (f"{WIRE}/test_batches.py",),
    "proto/wire/columns.py": (f"{WIRE}/test_batches.py",),
    "proto/wire/names.py": ("tests/proto/questions",),
    "proto/wire/status.py": (f"{WIRE}/test_status.py",),
    "proto/wire/tensors.py": (f"{WIRE}/test_tensors.py", f"{WIRE}/test_batches.py"),
    "server/index/draws.py": ("tests/server/indexing/test_selection.py", f"{NAMING}/test_scores.py"),
    "server/index/negatives.py": ("tests/server/indexing/test_negatives.py",),
    "server/indexing/negatives.py": ("tests/server/indexing/test_negatives.py",),
    "server/indexing/selection.py": ("tests/server/indexing/test_selection.py",),
    "server/jobs/store.py": (
        "tests/server/jobs/test_store.py",
        *(
            f"tests/server/jobs/test_state.py::test_{name}"
            for name in (
                "the_store_forgets_nothing_that_it_said",
                "a_page_of_jobs_holds_what_a_message_has_room_for",
            )
        ),
        *(
            f"tests/server/jobs/test_tenants.py::test_{name}"
            for name in (
                "a_store_says_how_many_jobs_run_before_one_and_runs_them_so",
                "one_key_cannot_fill_the_queue",
                "one_keys_results_leave_room_for_others",
            )
        ),
    ),
    "server/mapping/file.py": ("tests/server/mapping/test_file.py",),
    "server/mapping/groups.py": ("tests/server/mapping/test_groups.py",),
    "server/naming/kept.py": (f"{NAMING}/test_kept.py",),
    "server/naming/log_odds.py": (f"{NAMING}/test_log_odds.py",),
    "server/naming/names.py": (f"{NAMING}/test_names.py", f"{NAMING}/test_scores.py"),
    "server/naming/parts.py": (f"{NAMING}/test_parts.py",),
    "server/naming/rules.py": (f"{NAMING}/test_names.py", f"{NAMING}/test_scores.py"),
    "server/naming/scores.py": (f"{NAMING}/test_scores.py",),
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
        with warm() as socket:
            for module in modules:
                test(module, sample, socket)
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
            _copy(ROOT / name, tree)
    for compiled_here in (ROOT / "kernels").rglob("__pycache__/*.nb[ci]"):  # it takes minutes
        _copy(compiled_here, tree)
    here = os.environ | {"PYTHONPATH": str(tree / "src")}
    if compiled:
        subprocess.run([PYTHON, "-m", "polysem.kernels.warm_up"], cwd=tree, env=here, check=True)


def _copy(path: Path, tree: Path) -> None:
    to = tree / path.relative_to(ROOT)
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(path, to, follow_symlinks=False)


def session(module: str, sample: Sample | None) -> Path:
    """Its mutants and what became of them; another file once the module, or the sample, is another."""
    drawn = b"" if sample is None else repr(tuple(sample)).encode()
    digest = hashlib.sha256(repr(OPERATORS).encode() + drawn + (ROOT / module).read_bytes())
    return BUILD / f"{module.replace('/', '-').removesuffix('.py')}-{digest.hexdigest()[:12]}.sqlite"


def test(module: str, sample: Sample | None, socket: Path) -> None:
    """Make the module's mutants and meet each with its tests; goes on where it was stopped."""
    path, settings = session(module, sample), BUILD / f"{module.replace('/', '-')}.toml"
    ask = [sys.executable, "-S", str(HERE / "warm.py"), str(socket), module, *MODULES[module]]
    settings.write_text(
        f"[cosmic-ray]\nmodule-path = {json.dumps(module)}\ntimeout = 3600.0\nexcluded-modules = []\n"
        f"test-command = {json.dumps(shlex.join(ask))}\n"
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
    if subprocess.run(ask, cwd=tree, check=False).returncode:
        raise SystemExit(f"the tests of {module} fail without any change: pytest {shlex.join(MODULES[module])}")
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
def warm() -> Iterator[Path]:
    """A process that tests what stands in the tree; the socket at which it is asked."""
    path = BUILD / f"{os.getpid()}.socket"
    path.unlink(missing_ok=True)
    settings = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [PYTHON, HERE / "warm.py", path]
    with subprocess.Popen(command, cwd=BUILD / "tree", stdout=subprocess.PIPE, env=settings) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        try:
            yield path
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
