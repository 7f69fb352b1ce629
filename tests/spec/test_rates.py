"""Is a rate card read as it is meant, and refused with place, reason and remedy where it is none?"""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from workflows_pkg.errors import SpecError
from workflows_pkg.spec.rates import DEFAULT, RateCard, load_rates, parse_rates
from workflows_pkg.spec.used import Used

GOOD = """\
rates:
  - {hosts: "spot-*", hours: "22:00-06:00 Europe/Berlin", cpu_hour: 0.012, gib_hour: 0.0015}
  - {since: 2026-07-01, run_hour: 0.055}
  - {run_hour: 0.049}
"""


def test_a_card_is_read_and_its_digest_says_which(tmp_path) -> None:
    file = tmp_path / "rates.yaml"
    assert load_rates(file) is None
    file.write_text(GOOD)
    card = load_rates(file)
    assert card is not None
    assert [rate.run_hour for rate in card.rates] == [None, 0.055, 0.049]
    assert RateCard.model_validate_json(card.text) == card
    assert parse_rates(GOOD.replace(" - ", "  -  ")).digest == card.digest, "spaces do not matter"
    assert parse_rates(GOOD.replace("0.049", "0.05")).digest != card.digest
    assert DEFAULT.rates[0].run_hour == pytest.approx(0.04937)
    assert DEFAULT.digest == "9f13c4f0f0bb", "a card that histories were landed with keeps its digest in later versions"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "1:1: expected rates, found nothing"),
        ("rates: []", "expected at least one item, found an empty list"),
        (
            "rates:\n  - {hosts: a}",
            "2:5: rates[0]: expected a price (run_hour, cpu_hour, gib_hour, million_input_tokens, "
            "million_output_tokens, moved_gib, call), found none.",
        ),
        ("rates:\n  - {call: -0.1}", "2:12: rates[0].call: expected at least 0.0, found the number -0.1."),
        ("rates:\n  - {milion_input_tokens: 1}", "Did you mean 'million_input_tokens'?"),
        ("rates:\n  - {call: 1, pools: \"x' or '1'='1\"}", "2:22: rates[0].pools"),
        ("rates:\n  - {call: 1, pools: 'llm-[a'}", "pools: gpu-[ab]*"),
        ("rates:\n  - {run_hour: -1}", "2:16: rates[0].run_hour: expected at least 0.0, found the number -1."),
        ("rates:\n  - {run_hour: .inf}", ".inf is not a number that can be kept"),
        ("rates:\n  - {run_hour: 1, hours: 9-5}", "hours: expected a part of the day with its zone."),
        ("rates:\n  - {run_hour: 1, hours: '09:00-17:00 Mars/Olympus'}", "hours: 22:00-06:00 Europe/Berlin"),
        ("rates:\n  - {run_hour: 1, hosts: \"x' or '1'='1\"}", "hosts"),
        (
            "rates:\n  - {run_hour: 1, hosts: 'gpu-[[a]'}",
            "2:26: rates[0].hosts: expected brackets in pairs around characters, found",
        ),
        ("rates:\n  - {run_hour: 1, hosts: 'gpu-[a'}", "hosts: gpu-[ab]*"),
        ("rates:\n  - {run_hours: 1}", "Did you mean 'run_hour'?"),
    ],
)
def test_what_is_no_card_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_rates(text)
    assert sentence in str(caught.value)
    assert "rates.yaml:" in str(caught.value)


def test_a_folder_in_its_place_is_told(tmp_path) -> None:
    (tmp_path / "rates.yaml").mkdir()
    with pytest.raises(SpecError, match=r"rates\.yaml: expected a file with rates, found a folder\. Move it away"):
        load_rates(tmp_path / "rates.yaml")


def test_brackets_name_some_characters() -> None:
    (rate,) = parse_rates("rates:\n  - {run_hour: 1, hosts: 'gpu-[a-c]*'}").rates
    assert rate.fits(Used(datetime(2026, 1, 1, tzinfo=UTC), None, host="gpu-b7"))
    assert not rate.fits(Used(datetime(2026, 1, 1, tzinfo=UTC), None, host="gpu-d7"))
