"""The page and the picture of the state machine say what the worker's table says."""

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def _generator():
    spec = importlib.util.spec_from_file_location("state_machine", DOCS / "state_machine.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_table_generates():
    generator = _generator()
    assert generator.PAGE.read_text() == generator.page(), "run `python docs/state_machine.py`"


def test_the_picture_was_drawn_from_the_present_table():
    generator = _generator()
    assert f"table {generator.fingerprint()}" in generator.PICTURE.read_text(), "run `python docs/state_machine.py`"
