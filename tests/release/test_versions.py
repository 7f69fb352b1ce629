"""One version runs, none is ever lost or changed, and the author's file has the last word."""

import json
import multiprocessing
import os
import threading

import pytest

from workflows_pkg.errors import BusyError, NotFound, SetupError, WorkflowsError
from workflows_pkg.release import durable
from workflows_pkg.release.versions import VersionStore
from workflows_pkg.spec.canonical import canonical_json, digest
from workflows_pkg.spec.loader import load_text


def test_first_look_at_a_file_is_version_1_and_later_looks_make_none(store, workflow):
    assert store.current(workflow()) == (workflow(), 1)
    assert store.current(workflow()) == (workflow(), 1)
    (version,) = store.log("daily")
    assert (version.author, version.reason, version.parent, version.active) == ("file", "first version", None, True)
    assert version.digest == digest(workflow())
    assert version.spec == canonical_json(workflow())


def test_an_edited_file_is_the_next_version_and_says_so(store, workflow):
    store.current(workflow())
    assert store.current(workflow(timeout="20s")) == (workflow(timeout="20s"), 2)
    newest = store.log("daily")[0]
    assert (newest.number, newest.parent, newest.author, newest.reason, newest.active) == (2, 1, "file", "edited file", True)


def test_an_applied_version_runs_although_the_file_says_something_else(store, workflow):
    store.current(workflow())
    store.adopt(workflow(timeout="9s"), author="ada", reason="learned", parent=1, suggestion_id="s1")
    assert store.current(workflow()) == (workflow(timeout="9s"), 2)
    assert [version.number for version in store.log("daily")] == [2, 1]


def test_editing_the_file_after_an_applied_version_wins_and_has_it_as_parent(store, workflow):
    store.current(workflow())
    store.adopt(workflow(timeout="9s"), author="ada", reason="learned", parent=1)
    assert store.current(workflow(timeout="50s"))[1] == 3
    assert store.active("daily").parent == 2


def test_undone_version_stays_undone_when_the_file_is_looked_at_again(store, workflow):
    store.current(workflow())
    store.current(workflow(timeout="20s"))
    store.activate("daily", 1)
    assert store.current(workflow(timeout="20s")) == (workflow(), 1)


def test_restored_version_is_byte_identical(store, workflow):
    store.current(workflow())
    path = store.folder / "daily" / "0001.json"
    before, spec = path.read_bytes(), store.get("daily", 1).spec
    store.current(workflow(timeout="20s"))
    store.activate("daily", 1)
    assert path.read_bytes() == before
    assert store.active("daily").spec == spec
    assert store.workflow(store.active("daily")) == workflow()


def test_steps_named_in_the_spec_keep_their_meaning_in_any_order_of_the_file(store, workflow):
    value = json.loads(canonical_json(workflow()))
    value["steps"] = dict(reversed(value["steps"].items()))
    store.current(workflow())
    assert store.current(type(workflow()).model_validate(value))[1] == 1


def test_adopting_from_a_version_that_is_no_longer_active_is_refused(store, workflow):
    store.current(workflow())
    store.current(workflow(timeout="20s"))
    with pytest.raises(WorkflowsError, match=r"made from version 1, but version 2 is active\. Make the change again"):
        store.adopt(workflow(timeout="9s"), author="ada", reason="late", parent=1)
    assert len(store.log("daily")) == 2


def test_unknown_workflow_and_version_are_named_with_what_is_there(store, workflow):
    store.current(workflow())
    with pytest.raises(NotFound, match="Did you mean 'daily'"):
        store.log("dayly")
    with pytest.raises(NotFound, match=r"version of daily '7'. Known: 1"):
        store.activate("daily", 7)
    for hostile in ("../daily", "", "a/b", "Daily\n"):
        with pytest.raises(NotFound):
            store.active(hostile)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda text: text.replace("30s", "31s"), id="spec edited"),
        pytest.param(lambda text: text.replace("first version", "best version"), id="reason edited"),
        pytest.param(lambda text: text[: len(text) // 2], id="cut"),
        pytest.param(lambda text: "", id="empty"),
        pytest.param(lambda text: "[1]", id="something else"),
        pytest.param(lambda text: text.replace('"number": 1', '"number": 2'), id="renumbered"),
    ],
)
def test_damaged_or_hand_edited_version_is_noticed(store, workflow, damage):
    store.current(workflow())
    path = store.folder / "daily" / "0001.json"
    path.write_text(damage(path.read_text()))
    with pytest.raises(SetupError, match=r"0001\.json was changed or damaged"):
        store.current(workflow())


def test_a_version_file_under_another_number_is_noticed(store, workflow):
    store.current(workflow())
    folder = store.folder / "daily"
    (folder / "0002.json").write_bytes((folder / "0001.json").read_bytes())
    with pytest.raises(SetupError, match=r"0002\.json was changed or damaged"):
        store.log("daily")


@pytest.mark.parametrize("text", ["", "{", '{"number": 9}', '{"number": "x"}', "[]", "null"])
def test_damaged_pointer_is_reported_with_what_to_write(store, workflow, text):
    store.current(workflow())
    (store.folder / "daily" / "active").write_text(text)
    with pytest.raises(SetupError, match=r'active: expected the number .* Write it: \{"number": 1\}'):
        store.active("daily")


def test_lost_pointer_is_not_guessed_once_there_are_two_versions(store, workflow):
    store.current(workflow())
    store.current(workflow(timeout="20s"))
    (store.folder / "daily" / "active").unlink()
    with pytest.raises(SetupError, match="nothing says which of the versions 1 to 2"):
        store.current(workflow())


def test_write_back_makes_the_file_the_active_version_and_no_new_one(store, workflow, tmp_path):
    path = tmp_path / "daily.yaml"
    path.write_text("# mine\nworkflow: daily  # indeed\nsteps: {}\n")
    path.chmod(0o640)
    store.current(workflow())
    store.adopt(workflow(timeout="9s"), author="ada", reason="learned", parent=1)
    done = store.write_back("daily", path)
    assert done.backup.read_text() == "# mine\nworkflow: daily  # indeed\nsteps: {}\n"
    assert (done.lost_comments, done.number) == (2, 2)
    assert "2 lines with comments" in str(done)
    assert path.stat().st_mode & 0o777 == 0o640
    written = load_text(path.read_text(), file="daily.yaml", kinds=_AnyKind())
    assert list(written.steps) == ["load", "score", "announce"]
    assert store.current(written) == (workflow(timeout="9s"), 2)
    store.activate("daily", 1)
    assert store.current(written)[1] == 1, "undoing after a write-back must hold: the file was not edited since"


def test_write_back_keeps_every_earlier_backup_and_writes_json_as_json(store, workflow, tmp_path):
    path = tmp_path / "daily.json"
    path.write_text("{}")
    store.current(workflow())
    first, second = store.write_back("daily", path), store.write_back("daily", path)
    assert first.backup.read_text() == "{}"
    assert second.backup != first.backup
    assert json.loads(path.read_text())["workflow"] == "daily"


def test_write_back_follows_a_link_to_the_file(store, workflow, tmp_path):
    real = tmp_path / "real.yaml"
    real.write_text("x")
    (tmp_path / "link.yaml").symlink_to(real)
    store.current(workflow())
    store.write_back("daily", tmp_path / "link.yaml")
    assert (tmp_path / "link.yaml").is_symlink()
    assert "workflow: daily" in real.read_text()


def test_reading_is_possible_while_somebody_changes_and_changing_waits_then_says_busy(store, workflow):
    store.current(workflow())
    impatient = VersionStore(store.folder.parent, wait_s=0.1)
    with durable.locked(store.folder / "daily" / ".lock", wait_s=1, what="test"):
        assert impatient.current(workflow())[1] == 1
        with pytest.raises(BusyError, match="Versions of daily: somebody else"):
            impatient.activate("daily", 1)


def _adopt_many(home, value, start, done, number_of):
    from workflows_pkg.spec.model import Workflow

    start.wait(30)
    store, workflow = VersionStore(home, wait_s=60), Workflow.model_validate_json(value)
    for place in range(number_of):
        store.record(workflow, author=f"worker-{os.getpid()}", reason=f"change {place}", parent=1)
    done.put(os.getpid())


def test_appliers_at_once_spend_no_number_twice_and_lose_no_version(store, workflow):
    store.current(workflow())
    context = multiprocessing.get_context("spawn")
    start, done = context.Event(), context.Queue()
    home, value = store.folder.parent, canonical_json(workflow())
    workers = [context.Process(target=_adopt_many, args=(home, value, start, done, 15)) for _ in range(3)]
    for worker in workers:
        worker.start()
    start.set()
    for worker in workers:
        worker.join(60)
    versions = store.log("daily")
    assert [version.number for version in versions] == list(range(46, 0, -1))
    assert len({(version.author, version.reason) for version in versions}) == 46
    assert sum(version.active for version in versions) == 1


def test_two_threads_that_adopt_from_the_same_version_leave_one_winner(store, workflow):
    store.current(workflow())
    outcomes, together = [], threading.Barrier(2)

    def adopt(timeout):
        together.wait()
        try:
            outcomes.append(store.adopt(workflow(timeout=timeout), author="ada", reason=timeout, parent=1).number)
        except WorkflowsError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=adopt, args=(timeout,)) for timeout in ("8s", "9s")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(type, outcomes), key=str) == [int, str]
    assert store.active("daily").number == 2
    assert len(store.log("daily")) == 2


def test_control_without_the_lock_and_exclusive_creation_versions_do_get_lost(tmp_path):
    """The naive way, count and write: two writers that count at the same moment take the same number."""
    folder = tmp_path / "naive"
    folder.mkdir()
    counted = threading.Barrier(2)

    def naive(text):
        number = len(list(folder.iterdir())) + 1
        counted.wait()
        (folder / f"{number:04d}.json").write_text(text)

    threads = [threading.Thread(target=naive, args=(text,)) for text in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(folder.iterdir())) == 1, "this control must lose a version"


class _AnyKind(dict):
    """Step kinds without parameters of their own: any `with` is taken."""

    def __init__(self):
        from pydantic import BaseModel, ConfigDict

        class Anything(BaseModel):
            model_config = ConfigDict(extra="allow")

        super().__init__(dict.fromkeys(("python", "data.read_table", "communication.notify"), Anything))
