"""Sizes, rates and times are read with their unit or refused, and what is shown reads back as the same number."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder import units

TABLE = [
    ("sizes are powers of 1024", units.size, "1K", 1024),
    ("", units.size, "512M", 512 << 20),
    ("", units.size, "3G", 3 << 30),
    ("", units.size, "2T", 2 << 40),
    ("rates are powers of 1000, as in tc(8)", units.rate, "1kbit", 1000),
    ("", units.rate, "20Mbit", 20_000_000),
    ("", units.rate, "10Gbit", 10**10),
    ("", units.duration, "90s", 90),
    ("", units.duration, "5m", 300),
    ("", units.duration, "2h", 7200),
    ("", units.duration, "1d", 86400),
    ("blanks around and between", units.size, " 512 M ", 512 << 20),
]


@pytest.mark.parametrize(("why", "read", "text", "value"), TABLE)
def test_read(why, read, text, value):
    assert read(text) == value, why


WRONG = [
    ("no unit", "512"), ("a number", 512), ("a fraction", "1.5G"), ("negative", "-1G"), ("a sign", "+1G"),
    ("nothing", ""), ("only a unit", "G"), ("a unit of another kind", "512X"), ("another's way", "512MiB"),
    ("small letters", "512g"), ("two numbers", "1 2G"), ("two units", "1GG"), ("true", True), ("null", None),
    ("a list", ["1G"]), ("digits of another script", "٣G"), ("a line end in it", "1\nG\nx"), ("zero", "0G"),
]  # fmt: skip


@pytest.mark.parametrize(("why", "text"), WRONG, ids=[w[0] for w in WRONG])
@pytest.mark.parametrize("read", [units.size, units.rate, units.duration])
def test_refused_with_a_hint(read, why, text):
    with pytest.raises(
        ValueError, match=r"; write a whole number with one of .*, as in [0-9]+[A-Za-z]+$"
    ) as caught:
        read(text)
    assert "\n" not in str(caught.value) or "\n" in str(text), why


def test_one_kind_is_not_another():
    for read, text in ((units.size, "20Mbit"), (units.rate, "20M"), (units.duration, "20M")):
        with pytest.raises(ValueError, match="is not a"):
            read(text)


@given(st.integers(1, 1 << 50))
def test_a_rate_that_is_shown_reads_back(value):
    text = units.show_rate(value * 1000)
    assert units.rate(text) == value * 1000


@given(st.integers(1, 999), st.sampled_from("KMGT"))
def test_a_size_that_is_shown_reads_back(number, unit):
    value = units.size(f"{number}{unit}")
    assert units.size(units.show_size(value)) == value


@given(st.integers(1, 1 << 45))
def test_a_size_that_is_not_whole_is_shown_short_and_near(value):
    text = units.show_size(value)
    assert len(text) <= 8
    number, unit = (text[:-1], text[-1]) if text[-1] in "KMGTB" else (text, "B")
    factor = {"B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}[unit]
    assert abs(float(number) * factor - value) <= 0.051 * factor


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0B"),
        (1, "1B"),
        (1023, "1023B"),
        (1536 << 20, "1536M"),
        (1 << 40, "1T"),
        (7 << 30, "7G"),
    ],
)
def test_sizes_as_shown(value, text):
    assert units.show_size(value) == text
