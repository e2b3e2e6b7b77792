"""Who may import whom: the rooms of the house and the walls between them (CONTRIBUTING.md, "The house").

A room is a folder, or a file that stands alone at the top of `server/`. Imports inside functions count; those that only
a type checker reads do not.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# A room and the rooms that it imports, beside itself; a line that begins with spaces goes on with the one before.
WALLS = """
proto                proto/questions proto/wire v1
proto/wire           proto v1
proto/questions      proto proto/wire v1
proto/work           proto
kernels              -
kernels/large        kernels
kernels/gpu          kernels
client               client/questions proto proto/questions proto/wire v1
client/questions     client client/drawing proto proto/questions proto/wire
client/drawing       client client/questions proto proto/questions
client/terminal      client client/drawing client/measuring client/questions proto proto/questions
client/explorer      client client/drawing client/questions proto proto/questions
client/measuring     client proto proto/questions proto/wire proto/work
client/exporting     client client/questions proto proto/questions
client/assistants    client client/questions proto
client/by_model      client client/questions proto proto/questions
client/commands      client client/assistants client/by_model client/drawing client/explorer client/exporting
                     client/measuring client/questions client/terminal proto proto/questions proto/work
server/settings      proto
server/paths         proto
server/database      proto
server/corpus        proto
server/latents       proto
server/model         proto proto/questions server/latents
server/index         proto proto/work
server/indexing      kernels proto proto/work server/corpus server/index server/model
server/searching     proto proto/questions
server/mapping       kernels kernels/large proto proto/questions server/index server/model server/naming
server/naming        proto proto/questions server/database server/index server/model server/questions
                     server/searching
server/questions     kernels kernels/large proto proto/questions proto/wire proto/work server/index server/latents
                     server/mapping server/model server/naming server/searching
server/serving       proto proto/questions proto/wire server/index server/mapping server/model server/paths
                     server/questions server/searching server/settings v1
server/demo          kernels proto proto/work server/corpus server/index server/indexing server/model server/paths
                     server/questions
server/measured      client/measuring proto proto/questions server/index server/questions
server/opening       kernels kernels/large proto server/demo server/index server/indexing server/measured server/model
                     server/questions server/serving server/settings
server/local_client  proto proto/questions server/opening server/questions server/serving server/settings
server/ray_cluster   proto proto/questions proto/work server/corpus server/demo server/index server/local_client
                     server/model
server/jobs          client/measuring proto proto/work server/corpus server/database server/index server/indexing
                     server/local_client server/model server/questions server/ray_cluster server/serving
                     server/settings v1
server/app           proto/wire server/jobs server/model server/naming server/opening server/paths server/questions
                     server/serving server/settings v1
server/in_process    client server/app server/opening server/serving server/settings
server               server/in_process server/paths
server/planted       client client/commands client/measuring client/terminal kernels proto proto/questions
                     server/index server/model server/opening server/questions server/settings
server/reproduce     client/commands client/measuring client/terminal proto proto/questions proto/work
                     server/corpus server/index server/indexing server/local_client server/model server/opening
                     server/planted server/settings
server/importing     client client/commands client/questions client/terminal proto proto/questions server/corpus
                     server/index server/indexing server/model
server/publishing    proto server/index
server/tour          client client/commands client/drawing client/measuring client/terminal server
server/commands      client client/commands client/terminal proto server/app server/corpus server/demo server/index
                     server/indexing server/model server/opening server/paths server/questions server/ray_cluster
                     server/serving server/settings server/key_commands server/tour
server/key_commands  client/commands client/terminal server/paths server/serving
"""
FILES = {
    "polysem." + path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__"): path
    for folder in ("client", "kernels", "proto", "server")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if "polysem" not in path.relative_to(ROOT).parts  # generated
}


def read(walls: str) -> dict[str, set[str]]:
    rooms: dict[str, set[str]] = {}
    for line in walls.strip().splitlines():
        room, *others = line.split() if line[0] != " " else (next(reversed(rooms)), *line.split())
        rooms.setdefault(room, set()).update(set(others) - {"-"})
    return rooms


MAY_IMPORT = read(WALLS)


def room_of(module: str) -> str:
    if module.startswith("polysem.v1"):
        return "v1"
    path = FILES[module].relative_to(ROOT)
    alone = path.parent.as_posix() == "server" and path.stem != "__init__"
    return (path.with_suffix("") if alone else path.parent).as_posix()


def imported(path: Path) -> set[str]:
    """The modules of polysem that a file imports, anywhere in it."""
    names: set[str] = set()
    todo: list[ast.AST] = [ast.parse(path.read_text())]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            todo += node.orelse
            continue
        todo += ast.iter_child_nodes(node)
        if isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in FILES or name.startswith("polysem.v1.") else node.module for name in inner}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "import_module":
            names |= {module for module in FILES if module.startswith(_known_beginning(node.args[0]))}
    return {name for name in names if name.startswith("polysem.")}


def _known_beginning(name: ast.expr) -> str:
    """What is written out of a module's name; something that nothing begins with where nothing is."""
    first = name.values[0] if isinstance(name, ast.JoinedStr) else name
    return str(first.value) if isinstance(first, ast.Constant) else "?"


IMPORTS = {module: imported(path) for module, path in FILES.items()}


@pytest.mark.parametrize("module", FILES)
def test_imports_keep_to_the_walls(module):
    room = room_of(module)
    wrong = {name: room_of(name) for name in IMPORTS[module] if room_of(name) not in {room, *MAY_IMPORT[room]}}
    assert not wrong


def test_every_door_is_used():
    used = {(room_of(module), room_of(name)) for module, names in IMPORTS.items() for name in names}
    assert {(room, other) for room, others in MAY_IMPORT.items() for other in others} - used == set()


def test_there_is_no_circle_of_files():
    assert circle(IMPORTS) == []


def circle(imports: dict[str, set[str]]) -> list[str]:
    """The files of one circle of imports, or none."""
    done: set[str] = set()

    def follow(module: str, way: list[str]) -> list[str]:
        if module in way:
            return [*way[way.index(module) :], module]
        if module in done or module not in imports:
            return []
        for name in sorted(imports[module]):
            if name != module and (found := follow(name, [*way, module])):
                return found
        done.add(module)
        return []

    return next((found for module in imports if (found := follow(module, []))), [])


def test_a_circle_is_found():
    assert circle({"a": {"b"}, "b": {"c", "d"}, "c": set(), "d": {"b"}}) == ["b", "d", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_the_check_reads_imports_wherever_they_stand(tmp_path):
    (tmp_path / "x.py").write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import polysem.server.app\n"
        "else:\n    from polysem.kernels import scc\n"
        "def f():\n    from polysem.proto.errors import NotFound\n"
        "    return import_module(f'polysem.kernels.gpu.{f}')\n"
    )
    found = imported(tmp_path / "x.py")
    assert {"polysem.kernels.scc", "polysem.proto.errors", "polysem.kernels.gpu.scc"} <= found
    assert "polysem.server.app" not in found


def test_few_files_stand_at_the_top_of_server_and_none_is_very_long():
    assert len(list((ROOT / "server").glob("*.py"))) <= 14
    files = [*FILES.values(), *(ROOT / "tests").rglob("*.py")]
    assert [path.name for path in files if len(path.read_text().splitlines()) > 500] == []
