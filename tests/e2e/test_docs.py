"""Every Python, shell and YAML block of README and docs runs or loads as printed, and pages stay short."""

from __future__ import annotations

import re
import shlex
import subprocess
from functools import partial
from pathlib import Path

import pytest
import yaml

from tests import warm
from videosys import FAMILIES, load_config
from videosys.serve import __main__ as serve
from videosys.serve import render

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(python|bash|sh|yaml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# [\w/.-]+\.\w+\n")  # first line of a file that a reader writes: another test runs these
LINK = re.compile(r"\]\((?!https?://)([^)#]+)\)")


def blocks(kind: str) -> list:
    found = [
        (page, i, match) for page in PAGES for i, match in enumerate(BLOCK.finditer(page.read_text("utf-8")))
    ]
    return [
        pytest.param(match[2], id=f"{page.stem}-{i}")
        for page, i, match in found
        if match[1] == kind and not FILE.match(match[2])
    ]


@pytest.fixture
def here(tmp_path) -> Path:
    """A folder that looks like the repository to relative paths, and takes the output."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    return tmp_path


@pytest.mark.parametrize("code", blocks("python"))
def test_python_blocks_run(code, here):
    done = warm.run(["-c", code], here)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("code", blocks("bash"))
def test_shell_blocks_run_or_are_targets_of_make(code, here):
    for line in code.strip().splitlines():
        program, *arguments = line.split()
        if program == "make":
            assert f"\n{arguments[0]}:" in (ROOT / "Makefile").read_text("utf-8")
            continue
        assert program == "python", f"no test for: {line}"
        done = warm.run(arguments, here)
        assert done.returncode == 0, done.stderr
        if arguments[0].startswith("examples/"):
            assert re.search(r"computed \d+ of \d+ steps(, .*)?$", done.stdout.strip())


@pytest.mark.parametrize("text", blocks("yaml"))
def test_yaml_blocks_are_settings_of_a_model_or_of_kubernetes(text, tmp_path):
    if "rayClusterSpec" in text:
        return  # looked at below
    path, errors = tmp_path / "block.yaml", []
    path.write_text(text, "utf-8")
    for family in FAMILIES.values():
        try:
            load_config(family.config, path)
            return
        except ValueError as error:
            errors.append(str(error))
    pytest.fail("\n".join(errors))


@pytest.mark.parametrize("script", blocks("sh"))
def test_scripts_for_clusters_are_scripts(script):
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


PARSERS = {"render": render.parser, "serve": partial(serve.parser, "serve")}
COMMAND = re.compile(r"(?:^|[^`\w])videosys (render|serve) (--.*)$", re.MULTILINE)


def commands() -> list:
    """Every command of the page about clusters, its lines joined."""
    text = (ROOT / "docs" / "cluster.md").read_text("utf-8").replace("\\\n", " ")
    found = enumerate(COMMAND.finditer(text))
    return [pytest.param(match[1], match[2], id=f"{match[1]}-{i}") for i, match in found]


def test_the_table_of_failures_on_clusters_names_tests():
    text = (ROOT / "docs" / "cluster.md").read_text("utf-8").partition("## When something fails")[2]
    named = re.findall(r"`((?:unit|e2e)/test_\w+\.py)`(?:: `(\w+)`)?", text)
    assert len(named) > 8
    for file, name in named:
        text = (ROOT / "tests" / file).read_text("utf-8")
        assert re.search(rf"^def test_\w*{name}", text, re.MULTILINE), (file, name)


@pytest.mark.parametrize(("name", "arguments"), commands())
def test_commands_for_clusters_are_understood(name, arguments):
    args = PARSERS[name]().parse_intermixed_args(shlex.split(arguments))
    assert args.executor == "ray"
    assert all("=" in word for word in args.overrides)


def test_the_service_changes_what_the_list_of_kubernetes_has():
    texts = [param.values[0] for param in blocks("yaml") if param.id.startswith("cluster-")]
    job, changes, service = [document for text in texts for document in yaml.safe_load_all(text)]
    whole, changed = job["spec"]["rayClusterSpec"], changes["spec"]["rayClusterSpec"]
    assert (job["kind"], job["apiVersion"]) == ("RayJob", "ray.io/v1")
    assert changes["spec"].keys() <= job["spec"].keys()
    assert changed.keys() - whole.keys() == {"enableInTreeAutoscaling"}
    assert changed["headGroupSpec"].keys() <= whole["headGroupSpec"].keys()
    assert changed["workerGroupSpecs"][0].keys() <= whole["workerGroupSpecs"][0].keys()
    assert changed["workerGroupSpecs"][0]["groupName"] == whole["workerGroupSpecs"][0]["groupName"]
    assert service["spec"]["selector"] == changed["headGroupSpec"]["template"]["metadata"]["labels"]
    assert service["spec"]["ports"][0]["port"] == serve.PORT


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_and_pictures_lead_somewhere(page):
    missing = [link for link in LINK.findall(page.read_text("utf-8")) if not (page.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pages_have_at_most_150_lines(page):
    assert len(page.read_text("utf-8").splitlines()) <= 150
