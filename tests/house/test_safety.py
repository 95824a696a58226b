"""No code from data files, no shell, and no path of one computer."""

from __future__ import annotations

import ast
import re

import pytest

from tests.house.source import dotted, named, parsed, python_files, text_files

BANNED_MODULES = frozenset({"pickle", "_pickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"})
BANNED_CALLS = frozenset(
    {"eval", "exec", "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"}
    | {"yaml.load", "yaml.unsafe_load", "yaml.full_load", "torch.hub.load", "tempfile.mktemp"}
)


def unsafe(tree: ast.Module) -> list[str]:
    """Return what could run code that comes with a file or a word."""
    wrong = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
            wrong += [f"line {node.lineno}: {name}" for name in names if name.split(".")[0] in BANNED_MODULES]
        elif isinstance(node, ast.Call):
            wrong += [f"line {node.lineno}: {what}" for what in _unsafe_call(node)]
    return wrong


def _unsafe_call(node: ast.Call) -> list[str]:
    name = dotted(node.func)
    options = {item.arg: item.value for item in node.keywords}
    constants = {arg: value.value for arg, value in options.items() if isinstance(value, ast.Constant)}
    wrong = [f"{name}()"] if name in BANNED_CALLS else []
    if name == "torch.load" and constants.get("weights_only") is not True:
        wrong.append("torch.load without weights_only=True")
    # A variable is no better than True: it can become it.
    for option in ("shell", "trust_remote_code", "allow_pickle"):
        if option in options and constants.get(option) is not False:
            wrong.append(f"{option} is not False")
    return wrong


def _machine_paths() -> re.Pattern[str]:
    # In pieces, so that this file does not hold what it forbids.
    unix = "|".join(("home", "root", "Users", "work", "tmp", "opt", "mnt", "var", "scratch"))
    return re.compile(rf"(?<![\w.~}}>)\]-])/(?:{unix})/\w|\b[A-Z]:\\{{1,2}}Users")


MACHINE_PATH = _machine_paths()


def machine_paths(text: str) -> list[str]:
    """Return the lines that name a folder as only one computer has it."""
    return [line.strip()[:100] for line in text.splitlines() if MACHINE_PATH.search(line)]


@pytest.mark.parametrize("path", python_files(), ids=named)
def test_nothing_runs_what_it_reads(path):
    assert unsafe(parsed(path)) == []


def test_no_file_names_a_path_of_one_computer():
    found = {named(path): machine_paths(path.read_text(encoding="utf-8")) for path in text_files()}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_the_texts_are_all_looked_at():
    names = {named(path) for path in text_files()}
    assert {"README.md", "Makefile", ".ci/run", "setup.py", "pyproject.toml", "videosys/config.py"} <= names


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "import pickle",
        "def f():\n    from pickle import loads",
        "import numpy, dill.source",
        "os.system('ls')",
        "subprocess.run('ls', shell=True)",
        "subprocess.Popen('ls', shell=flag)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "np.load(path, allow_pickle=True)",
        "eval(text)",
        "exec(text)",
        "yaml.load(text)",
    ],
)
def test_unsafe_code_is_caught(source):
    assert len(unsafe(ast.parse(source))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path, map_location='cpu', weights_only=True)",
        "model.eval()",
        "yaml.safe_load(text)",
        "subprocess.run(['ls'], shell=False)",
        "np.load(path)",
    ],
)
def test_safe_code_passes(source):
    assert unsafe(ast.parse(source)) == []


@pytest.mark.parametrize("parts", ["/home", "/root", "/tmp", "/work", "/mnt", "C:|Users", "D:||Users"])
def test_machine_paths_are_caught(parts):
    folder = parts.replace("|", "\\")
    assert machine_paths(f'open("{folder}/someone")')


@pytest.mark.parametrize(
    "text", ["https://example.org/home/page", "outputs/tmp/x", "./work/x", "~/root/x", "tmp_path / 'x'"]
)
def test_other_paths_pass(text):
    assert machine_paths(text) == []
