"""Which layers go: never one that is held or that a staying layer stands on, and no more than must."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.eviction import Kept, over, unneeded


def kept(name, parent="", used=1.0, size=10, needed=False, held=False):
    return Kept(name, parent, size, used, needed, held)


@pytest.mark.parametrize(
    ("why", "layers", "limit", "gone"),
    [
        ("there is room", [kept("a"), kept("b")], 20, []),
        ("the one used longest ago", [kept("a", used=2), kept("b", used=1)], 10, ["b"]),
        ("a child before its parent, though the parent was used before it",
         [kept("a", used=1), kept("b", "a", used=2)], 10, ["b"]),
        ("a parent is used when its child is", [kept("a", used=1), kept("b", "a", used=9), kept("c", used=5)],
         20, ["c"]),
        ("those of images last", [kept("a", used=1, needed=True), kept("b", used=9)], 10, ["b"]),
        ("but they go", [kept("a", used=1, needed=True), kept("b", used=9)], 0, ["b", "a"]),
        ("what is held stays, and what it stands on", [kept("a"), kept("b", "a", held=True), kept("c")], 0, ["c"]),
        ("a layer whose parent is gone already", [kept("b", "a"), kept("c", used=2)], 10, ["b"]),
    ],
)  # fmt: skip
def test_over(why, layers, limit, gone):
    assert over(layers, limit) == gone, why


@pytest.mark.parametrize(
    ("why", "layers", "gone"),
    [
        ("idle, of no image", [kept("a", used=1), kept("b", used=9)], ["a"]),
        ("of an image", [kept("a", used=1, needed=True)], []),
        ("in use", [kept("a", used=1, held=True)], []),
        ("under one that was used since", [kept("a", used=1), kept("b", "a", used=9)], []),
        ("with all that stands on it, from the top", [kept("a", used=1), kept("b", "a", used=2)], ["b", "a"]),
    ],
)  # fmt: skip
def test_unneeded(why, layers, gone):
    assert unneeded(layers, before=5) == gone, why


@st.composite
def stores(draw):
    """Layers on top of each other, as builds make them; used and marked at random."""
    count = draw(st.integers(0, 12))
    parents = [
        draw(st.sampled_from(["", *(str(m) for m in range(n))])) if n else "" for n in range(count)
    ]
    return [
        Kept(str(n), parent, draw(st.integers(0, 100)), draw(st.integers(0, 9)),
             draw(st.booleans()), draw(st.booleans()))
        for n, parent in enumerate(parents)
    ]  # fmt: skip


@given(stores(), st.integers(0, 600))
def test_what_stays_is_whole_and_small_enough(layers, limit):
    gone = over(layers, limit)
    stay = {k.id: k for k in layers if k.id not in gone}
    assert all(k.parent == "" or k.parent in stay for k in stay.values())
    assert all(not k.held for k in layers if k.id in gone)
    total = sum(k.size for k in stay.values())
    held = {k.id for k in layers if k.held}
    while below := {stay[n].parent for n in held} - held - {""}:
        held |= below
    assert total <= limit or set(stay) == held
    if gone:  # the last one had to go
        assert total + next(k.size for k in layers if k.id == gone[-1]) > limit


@given(stores(), st.randoms())
def test_the_order_of_the_folder_does_not_matter(layers, chance):
    mixed = list(layers)
    chance.shuffle(mixed)
    assert over(mixed, 100) == over(layers, 100)
    assert unneeded(mixed, 5) == unneeded(layers, 5)
