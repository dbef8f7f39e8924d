"""Every command of docs/grpcurl.md is run by a real grpcurl against real services and answers what the page shows."""

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mariadb_running import MariaDb
from recipes_running import Night, environment, search_path

PAGE = Path(__file__).parents[2] / "docs" / "grpcurl.md"
_ASSIGNMENT = re.compile(r"[A-Z]+=")
_VARIABLE = re.compile(r"\$\{?([A-Z]+)")
_OF_THE_CLUSTER = ("kubectl ", "umask ")
"""Commands that need a cluster, or concern nothing but the operator's files."""


@dataclass(frozen=True)
class Recipe:
    """A command, those above it in its block, and what the page shows as its answer."""

    title: str
    line: int
    before: tuple[str, ...]
    command: str
    answer: str

    def __str__(self) -> str:
        return f"{self.line}: {self.title}"


def fences() -> Iterator[tuple[str, int, str, list[str]]]:
    """Heading, line, language and text of each fenced block."""
    title, language, started, text = "", None, 0, []
    for number, line in enumerate(PAGE.read_text(encoding="utf-8").splitlines(), start=1):
        if line.startswith("```"):
            if language is None:
                language, started, text = line[3:], number, []
            else:
                yield title, started, language, text
                language = None
        elif language is not None:
            text.append(line)
        elif line.startswith("#"):
            title = line.lstrip("# ")


def commands() -> Iterator[Recipe]:
    """Everything that the page has typed, in order, with the answers."""
    for title, started, language, text in fences():
        if language != "console":
            continue
        typed = re.split(r"^\$ ", "\n".join(text).replace("\\\n", ""), flags=re.MULTILINE)
        before: list[str] = []
        for one in typed[1:]:
            command, _, answer = one.partition("\n")
            recipe = Recipe(title, started, tuple(before), re.sub(r" {2,}", " ", command), answer.strip())
            yield recipe
            before.append(recipe.command)


SETTINGS = [one for one in commands() if one.title == "Before"]
RECIPES = [one for one in commands() if one.command.startswith("grpcurl ")]


@pytest.fixture(scope="module", params=[False, True], ids=["plain text", "TLS"])
def night(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, mariadb_server: MariaDb
) -> Iterator[Night]:
    for program, where in (("grpcurl", "make grpcurl"), ("jq", "python -m lab programs")):
        if shutil.which(program, path=search_path()) is None:
            pytest.fail(f"there is no {program}; `{where}` installs it", pytrace=False)
    one = Night(tmp_path_factory.mktemp("night"), mariadb_server.new_database(), tls=request.param)
    try:
        one.start()
        yield one
    finally:
        one.stop()


def bash(recipe: Recipe) -> tuple[str, ...]:
    """The command as an operator's shell runs it, after what it builds upon."""
    before = ("exec 3>&1 >/dev/null", *recipe.before, "exec >&3 3>&-") if recipe.before else ()
    return "bash", "-eu", "-o", "pipefail", "-c", "\n".join((*before, recipe.command))


@pytest.mark.parametrize("recipe", [one for one in RECIPES if "/Watch" not in one.command], ids=str)
def test_a_recipe_answers_what_the_page_shows(night: Night, recipe: Recipe, tmp_path: Path) -> None:
    done = subprocess.run(
        bash(recipe), cwd=tmp_path, env=environment(night), capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    check(recipe.answer, done.stdout)


@pytest.mark.parametrize("recipe", [one for one in RECIPES if "/Watch" in one.command], ids=str)
def test_a_recipe_that_watches_shows_what_is_and_then_what_changes(night: Night, recipe: Recipe) -> None:
    shown = documents(recipe.answer)
    assert shown is not None
    with subprocess.Popen(
        bash(recipe), env=environment(night), stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        try:
            seen, unread = 0, ""
            for line in process.stdout:
                unread += line
                if line != "}\n":
                    continue
                if matches(shown[seen], json.loads(unread)):
                    seen += 1
                    if seen == len(shown):
                        break
                    night.manage()
                unread = ""
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            night.forget()
    assert seen == len(shown), f"ended after {seen} of {len(shown)} answers: {unread}"


def test_there_is_no_command_on_the_page_that_is_not_run() -> None:
    """Whatever the fence, the language or the place in the line."""
    typed = [line for _, _, _, text in fences() for line in text if "grpcurl " in line]
    run = [one.command for one in commands() if "grpcurl " in one.command]
    assert len(typed) == len(run)
    for one in commands():
        known = one in RECIPES or _ASSIGNMENT.match(one.command) or one.command.startswith(_OF_THE_CLUSTER)
        assert known, f"nothing runs `{one.command}`"
    for one in RECIPES:
        assert one.answer, f"the page shows no answer to `{one.command}`"
    # An assignment is run with the command that it is for.
    assert {one.command for one in commands() if "grpcurl " in one.command} == {
        line for one in RECIPES for line in (*one.before, one.command) if "grpcurl " in line
    }


def test_what_recipes_use_is_set_at_the_beginning() -> None:
    named = {word.split("=")[0] for one in SETTINGS for word in one.command.split() if _ASSIGNMENT.match(word)}
    for one in RECIPES:
        own = {line.split("=")[0] for line in one.before if _ASSIGNMENT.match(line)}
        used = _VARIABLE.findall(" ".join((*one.before, one.command)))
        assert set(used) <= named | own, one.command


def check(shown: str, answered: str) -> None:
    """Every field and line that the page shows is in the answer, with its value but for ids, numbers and times."""
    wanted = documents(shown)
    if wanted is None:
        lines = answered.splitlines()
        for line in shown.splitlines():
            assert line == "…" or any(same(line, one) for one in lines), f"no {line!r} in\n{answered}"
        return
    real = documents(answered)
    assert real is not None, answered
    for one in wanted:
        assert any(matches(one, other) for other in real), f"no\n{json.dumps(one, indent=2)}\nin\n{answered}"


def documents(text: str) -> list[Any] | None:
    """The JSON values that a text consists of; None when it is no JSON."""
    text = re.sub(r"^\s*…\n", "", text, flags=re.MULTILINE)
    text = re.sub(r",(\s*[}\]])", r"\1", text).strip()
    found, at = [], 0
    while at < len(text):
        try:
            value, at = json.JSONDecoder().raw_decode(text, at)
        except ValueError:
            return None
        found.append(value)
        at = len(text) - len(text[at:].lstrip())
    return found


def matches(shown: Any, real: Any) -> bool:
    """Whether all that is shown is there."""
    if isinstance(shown, dict):
        return isinstance(real, dict) and all(name in real and matches(shown[name], real[name]) for name in shown)
    if isinstance(shown, list):
        return isinstance(real, list) and all(any(matches(one, other) for other in real) for one in shown)
    if isinstance(shown, str):
        return isinstance(real, str) and same(shown, real)
    if isinstance(shown, int | float) and not isinstance(shown, bool):
        return isinstance(real, int | float) and not isinstance(real, bool)
    return bool(shown == real)


def same(shown: str, real: str) -> bool:
    """Whether two texts are equal but for ids, numbers and times; `…` is anything."""
    pattern = ".*".join(re.escape(neutral(part)) for part in shown.split("…"))
    return re.fullmatch(pattern, neutral(real)) is not None


def neutral(text: str) -> str:
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "<time>", text)
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|\b[0-9a-f]{32}\b", "<id>", text)
    return re.sub(r"\d+", "<n>", text)
