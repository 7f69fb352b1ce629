"""Does every attempt cost what the card in force when it began says, and still after the card was changed?"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import pandas as pd
import pytest

from workflows_pkg.history import cost
from workflows_pkg.history.cost import ALWAYS, by_rate, counting, part_sql, price_sql, use
from workflows_pkg.history.derive import derive
from workflows_pkg.history.ingest import land
from workflows_pkg.history.questions import read
from workflows_pkg.history.records import Run, StepAttempt, UsedRateCard
from workflows_pkg.history.store import open_history, writer
from workflows_pkg.spec.rates import DEFAULT, PRICES, flat, parse_rates
from workflows_pkg.spec.used import FIGURES, Used

CARD = parse_rates("""\
rates:
  - {hosts: "spot-*", hours: "22:00-06:00 Europe/Berlin", cpu_hour: 3600, gib_hour: 3600}
  - {hosts: "big", since: 2026-07-01, run_hour: 7200}
  - {hosts: "big", run_hour: 3600}
  - {pools: "llm/*", million_input_tokens: 2, million_output_tokens: 8}
  - {hosts: "metered", pools: "[lm]*", run_hour: 3600, moved_gib: 3, call: 0.5}
""")

USED = """create table a (started_at timestamptz, run_time_s double, cpu_s double, peak_memory_mib double, host varchar, pool varchar,
    input_tokens bigint, output_tokens bigint, moved_bytes bigint, calls bigint)"""


def _cost(at: str, host: str | None = "spot-1", cpu_s: float | None = 5.0, mib: float | None = 2048.0, **more: Any) -> Any:
    usd, digest = price_sql([(ALWAYS, CARD)])
    with closing(duckdb.connect()) as con:
        con.execute("set TimeZone = 'America/New_York'")  # whatever the session's is
        con.execute(USED)
        con.execute(
            "insert into a values (?::timestamptz, 10, ?, ?, ?, ?, ?, ?, ?, ?)",
            [f"{at}:00+00", cpu_s, mib, host, more.get("pool"), *(more.get(name) for name in FIGURES)],
        )
        (found,) = con.execute(f"select {usd}, {digest} from a").fetchall()
    assert found[1] == CARD.digest
    return found[0]


def test_a_price_depends_on_time_and_place_and_the_first_that_fits_counts() -> None:
    assert _cost("2026-01-10 21:00") == pytest.approx(5.0 + 10 * 2), "22:00 in Berlin: 5 CPU seconds, and 10 s of 2 GiB"
    assert _cost("2026-01-10 20:59") is None, "before ten no rate fits: unknown, not free"
    assert _cost("2026-01-11 04:59") == pytest.approx(25.0)
    assert _cost("2026-01-11 05:00") is None
    assert _cost("2026-07-10 20:00") == pytest.approx(25.0), "in summer ten is earlier"
    assert _cost("2026-06-30 23:59", host="big") == pytest.approx(10.0)
    assert _cost("2026-07-01 00:00", host="big") == pytest.approx(20.0)
    assert _cost("2026-01-10 23:00", host=None) is None


@pytest.mark.parametrize(
    "at", ["2026-01-10 21:00", "2026-01-10 20:59", "2026-07-01 00:00", "2026-03-29 02:30", "2026-10-25 01:30"]
)
@pytest.mark.parametrize("host", ["spot-1", "big", "small", None])
@pytest.mark.parametrize("cpu_s", [5.0, None])
def test_of_one_attempt_it_says_the_same_as_of_many(at: str, host: str | None, cpu_s: float | None) -> None:
    began = datetime.fromisoformat(at).replace(tzinfo=UTC)
    used = Used(began, 10.0, cpu_s, 2048.0, host=host)
    assert CARD.attempt_usd(used) == pytest.approx(_cost(at, host, cpu_s))


@pytest.mark.parametrize("host", ["metered", None])
@pytest.mark.parametrize("pool", ["llm/small", "lines", "m", "other", None])
@pytest.mark.parametrize(
    "figures",
    [
        {},
        {"input_tokens": 1_000_000},
        {"output_tokens": 500_000, "calls": 3},
        {"input_tokens": 0, "moved_bytes": 2**30, "calls": 2},
    ],
)
def test_of_what_an_attempt_told_it_says_the_same_too(host: str | None, pool: str | None, figures: dict[str, int]) -> None:
    used = Used(datetime(2026, 1, 10, tzinfo=UTC), 10.0, host=host, pool=pool, **figures)
    assert CARD.attempt_usd(used) == pytest.approx(_cost("2026-01-10 00:00", host, None, None, pool=pool, **figures))


def test_tokens_bytes_and_calls_are_priced_by_pool() -> None:
    at = "2026-01-10 00:00"
    tokens = {"input_tokens": 1_000_000, "output_tokens": 500_000}
    assert _cost(at, None, pool="llm/small", **tokens) == pytest.approx(2 + 4)
    assert _cost(at, None, pool="other", **tokens) is None, "no rate is for this pool"
    assert _cost(at, None, **tokens) is None, "nor for a step without a pool"
    assert _cost(at, None, pool="llm/small") is None, "only what it does not tell is priced: unknown, not free"
    assert _cost(at, "metered", pool="m", moved_bytes=2**29, calls=3) == pytest.approx(10 + 1.5 + 1.5)
    assert _cost(at, "metered", pool="m") == pytest.approx(10.0), "what it does not tell adds nothing to what is measured"


def test_the_parts_of_a_cost_are_what_it_is_made_of() -> None:
    (card,) = [parse_rates("rates: [{run_hour: 36, cpu_hour: 72, million_input_tokens: 5, call: 0.25}]")]
    parts = ", ".join(by_rate(card, part_sql(price)) for price in PRICES)
    with closing(duckdb.connect()) as con:
        con.execute(USED)
        con.execute("insert into a values (now(), 100, 50, 1, 'h', null, 200000, 9, 9, 2)")
        (found,) = con.execute(f"select {price_sql([(ALWAYS, card)])[0]}, {parts} from a").fetchall()
    total, *of = found
    assert of == [pytest.approx(1.0), pytest.approx(1.0), None, pytest.approx(1.0), None, None, pytest.approx(0.5)]
    assert total == pytest.approx(sum(part for part in of if part))


@pytest.mark.parametrize("missing", [{"cpu_s": None}, {"mib": None}])
def test_what_was_not_measured_makes_the_cost_unknown(missing: dict[str, None]) -> None:
    assert _cost("2026-01-10 23:00", **missing) is None


def _landed(home: Any, log: Any, translate: str) -> None:
    with writer(home) as history:
        land(history, log.batch(), translate, [log.cursor()])
        derive(history, pd.DataFrame([log.facts()]))


def _costs(home: Any) -> list[tuple[float | None, str | None]]:
    with closing(open_history(home)) as con:
        return [(one.cost_usd, one.rate_card) for one in read(con, StepAttempt)]


def test_a_changed_card_rewrites_nothing_that_was_landed_however_often_it_is_derived(
    tmp_path: Any, translate: str, whole_run: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = whole_run()
    first, second = flat(3600.0), flat(7200.0)
    with writer(tmp_path) as history:
        use(history, first, datetime.now(UTC))
    _landed(tmp_path, log, translate)
    before = _costs(tmp_path)
    assert {card for _, card in before} == {first.digest}
    assert sum(usd or 0 for usd, _ in before) == pytest.approx(8.0)
    # the file of a card may have any age: what began before the last landing keeps its cost
    with writer(tmp_path) as history:
        use(history, second, datetime(2000, 1, 1, tzinfo=UTC))
        use(history, second, datetime.now(UTC))
        assert len(read(history.con, UsedRateCard)) == 2, "said twice, it counts once"
        derive(history, pd.DataFrame([log.facts()]))
    assert _costs(tmp_path) == before
    monkeypatch.setattr(cost, "counting", lambda _: [(ALWAYS, second)])  # control: the kept cards are what keeps the costs
    monkeypatch.setattr("workflows_pkg.history.derive.counting", lambda _: [(ALWAYS, second)])
    with writer(tmp_path) as history:
        derive(history, pd.DataFrame([log.facts()]))
    assert sum(usd or 0 for usd, _ in _costs(tmp_path)) == pytest.approx(16.0)


def test_what_begins_after_a_card_was_changed_costs_by_it() -> None:
    changed = datetime(2026, 5, 1, 12, tzinfo=UTC)
    usd, digest = price_sql([(changed, flat(7200.0)), (ALWAYS, flat(3600.0))])
    with closing(duckdb.connect()) as con:
        con.execute(USED)
        con.execute("insert into a by name select unnest([?::timestamptz, ?::timestamptz]) as started_at, 10.0 as run_time_s",
                    [changed - timedelta(seconds=1), changed])  # fmt: skip
        found = con.execute(f"select {usd}, {digest} from a order by started_at").fetchall()
    assert found == [(pytest.approx(10.0), flat(3600.0).digest), (pytest.approx(20.0), flat(7200.0).digest)]


def test_a_history_of_an_earlier_version_was_priced_by_the_assumed_card(
    tmp_path: Any, translate: str, whole_run: Callable[[], Any]
) -> None:
    _landed(tmp_path, whole_run(), translate)
    with writer(tmp_path) as history:
        assert counting(history.con) == [(ALWAYS, DEFAULT)]
        use(history, flat(1.0), datetime.now(UTC))
        assert [one.digest for one in read(history.con, UsedRateCard)] == [DEFAULT.digest, flat(1.0).digest]
    with closing(open_history(tmp_path)) as con:
        (run,) = read(con, Run)
    assert run.cost_usd == pytest.approx(8 * 0.04937 / 3600)
