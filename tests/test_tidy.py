"""House style as far as a machine can hold it: words, sizes, docstrings, links, and traps of the layout.

Each test collects all offences and shows them together, with what to do instead. Limits are ratchets: what was too long once is
listed with its length, may only shrink, and leaves the list when it fits.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE_FOLDERS = ("operator", "simulator", "hack", "tests")
TEXT_FOLDERS = (*SOURCE_FOLDERS, "docs", "designs", "examples", "helm", "crds", ".ci")
TEXT_SUFFIXES = {".py", ".md", ".yaml", ".yml", ".toml", ".json", ".tpl", ".txt", ".sh", ""}

MAX_FILE_LINES = 599
MAX_TEST_FILE_LINES = 799
"""Tests hold tables of cases and small worlds, which read well in one piece."""
MAX_FUNCTION_LINES = 60

LONGER_FILES = {
    "operator/fleetpack/api/inference_deployment.py": 620,
}
LONGER_FUNCTIONS: dict[str, int] = {}
"""`path:function` to the most lines it may have: longer than the limit, and known."""

PENDING_LINKS: set[str] = set()
"""Files that something else makes; a link to them is no mistake while they are not there."""

WORDS = {
    r"blacklist": "denied, refused",
    r"whitelist": "allowed",
    r"sanity[- ]check": "check",
    r"defragment\w*": "consolidation",
    r"warm-?up time": "cold start",
    r"\bSKUs?\b": "instance type",
    r"\butili[sz]e[sd]?\b": "use",
    r"\bleverag\w+": "use",
    r"\bin order to\b": "to",
    r"\bobviously\b": "nothing: leave it out",
    r"\bseamless\w*": "nothing: leave it out",
    r"\bblazing\w*": "a number",
}
"""Words for all texts, as regular expressions, with what to write instead."""

CODE = {
    r"\bdatetime\.utcnow\(": "datetime.now(UTC)",
    r"# type: ignore(?!\[)": "# type: ignore[code], with the reason behind it",
    r"# noqa(?!:)": "# noqa: CODE, with the reason behind it",
    r"\bassert False\b": "assert_never(...) or raise",
    r"float\(['\"]nan['\"]\)": "a type that says why there is no number",
}
"""Code that is not wanted anywhere in the two packages."""


def files(*folders: str, suffixes: set[str]) -> Iterator[Path]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*")):
            if (
                path.is_file()
                and path.suffix in suffixes
                and "__pycache__" not in path.parts
                and path != Path(__file__)
            ):
                yield path


def texts() -> Iterator[Path]:
    yield from files(*TEXT_FOLDERS, suffixes=TEXT_SUFFIXES)
    yield from (
        path for path in sorted(ROOT.glob("*")) if path.is_file() and path.name not in ("LICENSE", "requirements.lock")
    )


def pages() -> list[Path]:
    return [*sorted(ROOT.glob("*.md")), *files("docs", "designs", "examples", suffixes={".md"})]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def found(paths: Iterator[Path], patterns: dict[str, str], flags: re.RegexFlag = re.NOFLAG) -> list[str]:
    compiled = [(re.compile(pattern, flags), instead) for pattern, instead in patterns.items()]
    return [
        f"{name(path)}:{number}: {match.group()!r}: write {instead}"
        for path in paths
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1)
        for pattern, instead in compiled
        if (match := pattern.search(line))
    ]


def test_should_use_the_words_of_the_house() -> None:
    # Descriptions in the Pod template's schema and vendors' names in the catalog are not ours to choose.
    own = (path for path in texts() if "pod_template_schema" not in path.name and "catalog/data" not in name(path))
    # The glossary has to name what is not said.
    assert found((path for path in own if path.name != "STYLE.md"), WORDS, re.IGNORECASE) == []


def test_should_avoid_code_that_has_a_better_form() -> None:
    assert found(files("operator", "simulator", suffixes={".py"}), CODE) == []


def test_should_leave_no_markers_of_unfinished_work() -> None:
    markers = "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X"))
    assert found(texts(), {rf"\b({markers})\b": "an issue, or the thing itself"}) == []


def test_should_hold_no_path_of_any_one_machine() -> None:
    # A path of a container or of a node (/var/lib/kubelet) is no path of the machine on which this was written.
    assert (
        found(texts(), {r"(?<![\w./$}>-])/(home|root|Users|work|var/tmp)/\w": "a path relative to the repository"})
        == []
    )


def test_should_keep_files_short() -> None:
    def lengths(*folders: str) -> dict[str, int]:
        return {name(path): len(path.read_text().splitlines()) for path in files(*folders, suffixes={".py"})}

    assert _over(lengths("operator", "simulator", "hack"), MAX_FILE_LINES, LONGER_FILES) == []
    assert _over(lengths("tests"), MAX_TEST_FILE_LINES, {}) == []


def test_should_keep_functions_short() -> None:
    lengths = {
        f"{name(path)}:{function}": lines
        for path in files("operator", "simulator", suffixes={".py"})
        for function, lines in _functions(ast.parse(path.read_text()))
    }
    assert _over(lengths, MAX_FUNCTION_LINES, LONGER_FUNCTIONS) == []


def _over(lengths: dict[str, int], limit: int, known: dict[str, int]) -> list[str]:
    offences = [
        f"{where} has {lines} lines: split it; at most {known.get(where, limit)} are allowed"
        for where, lines in lengths.items()
        if lines > known.get(where, limit)
    ]
    fitting = [where for where in known if lengths.get(where, 0) <= limit]
    return offences + [f"{where} fits now, or is gone: take it off the list" for where in fitting]


def _functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, int]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + node.name, (node.end_lineno or node.lineno) - node.lineno + 1
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _functions(node, f"{prefix}{node.name}.")


def test_should_open_every_module_with_its_concept() -> None:
    silent = [
        name(path)
        for path in files("operator", "simulator", "hack", suffixes={".py"})
        if not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []


@pytest.mark.parametrize("folder", ["operator", "simulator"])
def test_should_not_make_a_source_folder_a_package(folder: str) -> None:
    assert not (ROOT / folder / "__init__.py").exists(), f"{folder}/__init__.py would shadow Python's own modules"
    names = {path.stem for path in (ROOT / folder).iterdir()}
    assert names & sys.stdlib_module_names == set(), "with this folder first on the path they would shadow Python's own"


def test_should_find_pythons_own_operator_module_from_the_root_of_the_repository() -> None:
    program = "import operator; print(operator.__file__)"
    answer = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert Path(answer.stdout.strip()).parent == Path(sysconfig.get_path("stdlib"))


def test_should_keep_a_changelog_in_the_format_that_it_names() -> None:
    lines = (ROOT / "CHANGELOG.md").read_text().splitlines()
    versions = [line for line in lines if line.startswith("## ")]
    assert versions[0] == "## [Unreleased]"
    dated = re.compile(r"## \[\d+\.\d+\.\d+\] - \d{4}-\d{2}-\d{2}")
    assert [line for line in versions[1:] if not dated.fullmatch(line)] == []
    kinds = {f"### {kind}" for kind in ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")}
    assert {line for line in lines if line.startswith("### ")} <= kinds


def test_should_explain_every_dependency_and_nothing_else() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    requirements = [
        *project["project"]["dependencies"],
        *(own for extra in project["project"]["optional-dependencies"].values() for own in extra),
        *(own for group in project["dependency-groups"].values() for own in group),
    ]
    wanted = {re.split(r"[\s\[<>=!~;]", requirement)[0].lower() for requirement in requirements}
    page, _, _ = (ROOT / "docs" / "dependencies.md").read_text().partition("## Programs")
    explained = set(re.findall(r"^\| ([a-z0-9-]+) \|", page, re.MULTILINE)) - {"package"}
    assert explained == wanted


def test_should_link_only_to_what_is_there() -> None:
    broken = [
        f"{name(page)}: {target}"
        for page in pages()
        for target in re.findall(r"\]\(([^)\s]+)\)", _without_code(page.read_text()))
        if not re.match(r"[a-z]+:", target) and not _resolves(page, target)
    ]
    assert broken == []


def _without_code(text: str) -> str:
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)


def _resolves(page: Path, target: str) -> bool:
    place, _, anchor = target.partition("#")
    path = (page.parent / place).resolve() if place else page
    if not path.is_relative_to(ROOT):
        return False
    if not path.exists():
        return name(path) in PENDING_LINKS
    if not anchor or path.suffix != ".md":
        return True
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return anchor in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
