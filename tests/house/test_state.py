"""Nothing is remembered where two generations could meet: no globals, no class state, stateless models."""

from __future__ import annotations

import ast

import pytest

from tests.house.source import LIBRARY, dotted, named, parsed, python_files

MUTABLE_DISPLAYS = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
MUTABLE_CALLS = frozenset(
    {"list", "dict", "set", "bytearray", "defaultdict", "OrderedDict", "Counter", "deque", "ChainMap"}
    | {"WeakKeyDictionary", "WeakValueDictionary", "WeakSet", "local", "ContextVar"}
)
CHANGES = frozenset(
    {"append", "extend", "insert", "remove", "pop", "popitem", "clear", "update", "setdefault", "add"}
    | {"discard", "sort", "reverse", "appendleft", "popleft", "__setitem__"}
)
REMEMBERING = frozenset({"cache", "lru_cache", "cached"})  # decorators that keep results for ever
MODULE_FOLDERS = ("models", "layers", "text_encoders")
BUILDERS = frozenset({"__init__", "__post_init__", "__new__"})


def is_mutable(value: ast.AST | None) -> bool:
    if isinstance(value, ast.Call):
        return dotted(value.func).split(".")[-1] in MUTABLE_CALLS
    return isinstance(value, MUTABLE_DISPLAYS)


def _assigned(statement: ast.stmt) -> tuple[list[str], ast.AST | None]:
    if isinstance(statement, ast.Assign):
        return [dotted(target) for target in statement.targets], statement.value
    if isinstance(statement, (ast.AnnAssign, ast.AugAssign)):
        return [dotted(statement.target)], statement.value
    return [], None


def shared_state(tree: ast.Module) -> list[str]:
    """Return the containers that a module or a class shares, and the ways to change them.

    A table of constants has an upper-case name in its module and is changed nowhere.
    """
    wrong = [f"{name} is changed" for name in changed_tables(tree)]
    bodies = [(f"class {node.name}", node.body) for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    for owner, body in [("module", tree.body), *bodies]:
        for statement in body:
            names, value = _assigned(statement)
            tables = [name for name in names if name == "__all__" or (name.isupper() and owner == "module")]
            wrong += [f"{owner}: {n} is mutable" for n in names if n not in tables and is_mutable(value)]
    for node in ast.walk(tree):
        wrong += _global_words(node) + _class_assignments(node) + _remembering(node)
    return wrong


def changed_tables(tree: ast.Module) -> list[str]:
    """Return the upper-case names whose content is changed: by index, by `del`, or by a method."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CHANGES:
            names.append(dotted(node.func.value))
        elif isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
            names.append(dotted(node.value))
        elif isinstance(node, ast.AugAssign):
            names.append(dotted(node.target))
    return [name for name in names if name.split(".")[-1].isupper()]


def _global_words(node: ast.AST) -> list[str]:
    return [f"line {node.lineno}: global {', '.join(node.names)}"] if isinstance(node, ast.Global) else []


def _class_assignments(node: ast.AST) -> list[str]:
    """Return assignments to attributes of classes: `cls.x`, `type(self).x`, `self.__class__.x`."""
    wrong = []
    for name, target in _targets(node):
        owner = target.value if isinstance(target, ast.Attribute) else None
        by_type = isinstance(owner, ast.Call) and dotted(owner.func) == "type"
        if name.startswith("cls.") or ".__class__." in name or by_type:
            wrong.append(f"line {target.lineno}: assigns to a class")
    return wrong


def _targets(node: ast.AST) -> list[tuple[str, ast.expr]]:
    if not isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
        return []
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    flat = [item for target in targets for item in getattr(target, "elts", [target])]
    # `a.b[0] = x` changes a.b as much as `a.b = x` does.
    owners = [item.value if isinstance(item, ast.Subscript) else item for item in flat]
    return [(dotted(owner), owner) for owner in owners]


def _remembering(node: ast.AST) -> list[str]:
    """Return the decorators that keep results by argument; without arguments it is a constant made late."""
    wrong: list[str] = []
    if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or not ast.unparse(node.args):
        return wrong
    for decorator in node.decorator_list:
        call = decorator.func if isinstance(decorator, ast.Call) else decorator
        if dotted(call).split(".")[-1] in REMEMBERING:
            wrong.append(f"line {decorator.lineno}: {dotted(call)} keeps state in the module")
    return wrong


def stateful_methods(tree: ast.Module) -> list[str]:
    """Return the methods, other than those that build an object, that assign to `self`."""
    wrong = []
    for owner in ast.walk(tree):
        if not isinstance(owner, ast.ClassDef):
            continue
        methods = [item for item in owner.body if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef))]
        for method in methods:
            if method.name not in BUILDERS:
                wrong += [f"{owner.name}.{method.name}: {what}" for what in _changes_of_self(method)]
    return wrong


def _changes_of_self(method: ast.AST) -> list[str]:
    wrong = [name for node in ast.walk(method) for name, _ in _targets(node) if name.startswith("self.")]
    calls = [node for node in ast.walk(method) if isinstance(node, ast.Call)]
    names = [dotted(call.func) for call in calls]
    wrong += [name for name in names if name in ("self.register_buffer", "self.register_parameter")]
    first = [dotted(call.args[0]) for call in calls if dotted(call.func) == "setattr" and call.args]
    return wrong + ["setattr(self)" for name in first if name.split(".")[0] == "self"]


CODE = python_files(LIBRARY, "eval", "examples")
MODULES = python_files(*(f"{LIBRARY}/{name}" for name in MODULE_FOLDERS))


@pytest.mark.parametrize("path", CODE, ids=named)
def test_no_state_is_shared(path):
    assert shared_state(parsed(path)) == []


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_models_and_layers_never_change_themselves(path):
    assert stateful_methods(parsed(path)) == []


@pytest.mark.parametrize(
    "source",
    [
        "table = {}",
        "TABLE = {}\nTABLE[1] = 2",
        "from a import TABLE\ndef f():\n    TABLE.update(b)",
        "import a\na.TABLE.append(1)",
        "TABLE = []\nTABLE += [1]",
        "TABLE = {1: 2}\ndel TABLE[1]",
        "class A:\n    TABLE = {}",
        "table: list[int] = [1]",
        "a = b = set()",
        "names = [n for n in x]",
        "seen = collections.defaultdict(list)",
        "count = 0\ndef f():\n    global count\n    count = 1",
        "class A:\n    items = []",
        "class A:\n    class B:\n        items: dict = dict()",
        "class A:\n    def f(cls):\n        cls.count += 1",
        "class A:\n    def f(self):\n        type(self).count = 1",
        "class A:\n    def f(self):\n        self.__class__.count = 1",
        "class A:\n    def f(cls):\n        cls.table[3] = 1",
        "@functools.lru_cache(maxsize=None)\ndef f(a): pass",
        "@cache\ndef f(*a): pass",
    ],
)
def test_shared_state_is_caught(source):
    assert len(shared_state(ast.parse(source))) >= 1


@pytest.mark.parametrize(
    "source",
    [
        "__all__ = ['f']\n_TABLE = {1: [2]}\nprint(_TABLE[1], _TABLE.get(1))",
        "@functools.cache\ndef f(): pass",
        "TABLE = MappingProxyType({1: 2})\nNAMES = ('a', 'b')\nSET = frozenset({1})",
        "def f():\n    items = []\n    items[0] = 1",
        "@dataclass\nclass A:\n    items: list = field(default_factory=list)\n    pair: tuple = (1, 2)",
        "class A:\n    @functools.cached_property\n    def f(self): pass",
    ],
)
def test_constants_and_locals_pass(source):
    assert shared_state(ast.parse(source)) == []


@pytest.mark.parametrize(
    "line",
    [
        "self.count = 1",
        "self.count += 1",
        "self.table[0] = 1",
        "self.a, self.b = 1, 2",
        "self.inner.count = 1",
        "self.register_buffer('a', b)",
        "setattr(self, 'a', 1)",
    ],
)
def test_changes_of_self_are_caught(line):
    assert len(stateful_methods(ast.parse(f"class A:\n    def forward(self):\n        {line}"))) >= 1
    assert stateful_methods(ast.parse(f"class A:\n    def __init__(self):\n        {line}")) == []
