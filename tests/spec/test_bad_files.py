"""Every file in tests/workflows/bad is refused with the messages beside it, to the character.

After a wanted change of messages: WRITE_EXPECTED=1 python -m pytest tests/spec/test_bad_files.py, then read the diff.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from workflows_pkg.errors import SpecError
from workflows_pkg.spec.loader import load

BAD = Path(__file__).parent.parent / "workflows" / "bad"
FILES = sorted(path for path in BAD.iterdir() if path.suffix in (".yaml", ".json"))


def messages(path: Path, kinds) -> str:
    with pytest.raises(SpecError) as caught:
        load(path, kinds)
    return str(caught.value).replace(str(path), path.name) + "\n"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_wrong_file_is_refused_with_the_messages_beside_it(path, kinds):
    expected = path.with_name(path.name + ".expected")
    said = messages(path, kinds)
    if os.environ.get("WRITE_EXPECTED"):
        expected.write_text(said, encoding="utf-8")
    assert said == expected.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_message_is_one_line_with_a_place_and_no_python_words(path, kinds):
    for line in messages(path, kinds).splitlines():
        assert line.startswith(path.name + ":")
        assert len(line) < 400
        for word in ("Traceback", "pydantic", "NoneType", "dict", "tuple", "Input should", "<class"):
            assert word not in line


def test_there_are_many_wrong_files_and_no_expectation_is_left_over():
    assert len(FILES) >= 50
    names = {path.name for path in FILES}
    assert {path.name.removesuffix(".expected") for path in BAD.glob("*.expected")} == names
