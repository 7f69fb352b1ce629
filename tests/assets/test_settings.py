"""The code location grants what the examples need, and no more."""

from __future__ import annotations

from pathlib import Path

from resources.settings import allowed


def test_without_a_known_address_no_port_of_this_machine_is_granted(tmp_path: Path) -> None:
    assert allowed({"DAGSTER_HOME": str(tmp_path)}).hosts == ()


def test_only_the_weather_service_is_granted_at_its_address(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "weather_service").write_text("http://127.0.0.1:8491")
    (tmp_path / "secrets" / "ops_channel").write_text("json://127.0.0.1:8492/")
    assert allowed({"DAGSTER_HOME": str(tmp_path)}).hosts == ("127.0.0.1:8491",)


def test_the_environment_goes_before_the_files(tmp_path: Path) -> None:
    environ = {
        "DAGSTER_HOME": str(tmp_path),
        "WORKFLOWS_DATA": str(tmp_path / "elsewhere"),
        "WORKFLOWS_SECRET_WEATHER_SERVICE": "http://127.0.0.1:9",
    }
    found = allowed(environ)
    assert (found.files, found.hosts) == (tmp_path / "elsewhere", ("127.0.0.1:9",))


def test_functions_of_the_neighbours_and_the_tour_may_not_be_called(tmp_path: Path) -> None:
    found = allowed({"DAGSTER_HOME": str(tmp_path)})
    assert found.allows_module("assets.flights")
    assert not any(
        found.allows_module(name) for name in ("assets", "assets.tour.runs", "assets.neighbours.backup", "assets.data")
    )
