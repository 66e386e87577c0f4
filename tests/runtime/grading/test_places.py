"""Which answers may be objects: what a run with the known solution has noted is what later ones are held to."""

from typing import Any

from runtime.grading.testkit.places import CONSTANT, DRAWN, Places, drawn, kept_constants

NODE: list[Any] = ["o", 1, None]


def noted(*answers: tuple[str, Any]) -> list[str]:
    """Of one line of a test: what was asked, and what came."""
    return played(Places(None), *answers)[1]


def played(places: Places, *answers: tuple[str, Any]) -> tuple[list[bool], list[str]]:
    found = []
    for way, data in answers:
        leaves = places.look(data, "line")
        times = places.again("line", way)
        found += [
            places.has("line") and places.may("line", about, f"{way}{exactly} #{times}") for about, exactly, _ in leaves
        ]
    return found, places.noted()


def test_a_line_that_gives_objects_alone_gives_any() -> None:
    known = noted(("get(a)", NODE), ("get(b)", ["l", NODE, None]))
    assert known == ["line", "listed line", "one line"]
    assert played(Places(known), ("get(c)", NODE), ("get(d)", ["t", NODE, NODE]))[0] == [True] * 3


def test_an_object_in_the_place_of_a_list_of_them_is_gone_through() -> None:
    known = noted(("get(a)", ["l", NODE, None]))
    assert played(Places(known), ("get(a)", NODE), ("get(b)", ["t", NODE]))[0] == [False, True]


def test_where_it_gives_text_too_it_counts_what_was_asked_and_where_in_the_answer() -> None:
    known = noted(("get(a)", NODE), ("get(b)", "text"), ("pair()", ["t", NODE, "text"]))
    assert played(Places(known), ("get(a)", NODE), ("get(b)", NODE))[0] == [True, False]
    assert played(Places(known), ("pair()", ["t", NODE, NODE]))[0] == [True, False]


def test_and_how_many_times_within_one_test() -> None:
    known = noted(("next()", NODE), ("next()", "text"))
    assert played(Places(known), ("next()", NODE), ("next()", NODE))[0] == [True, False]
    again = Places(known)
    for _ in range(2):
        again.begin()
        assert played(again, ("next()", NODE))[0] == [True]


def test_of_what_a_test_draws_anew_the_line_counts() -> None:
    known, other = noted(("get(1)", NODE), ("get(2)", "text")), noted(("get(3)", NODE), ("get(4)", "text"))
    assert played(Places(known), ("get(5)", NODE))[0] == [False]
    assert drawn(known, known) == set() and drawn(other, known) == {f"{DRAWN}line"}
    assert played(Places({*known, *drawn(other, known)}), ("get(5)", NODE))[0] == [True]


def test_constants_are_those_that_the_repair_leaves_alone_and_that_are_the_same_each_time() -> None:
    before = [f"{CONSTANT}calc:SAME 1", f"{CONSTANT}calc:MENDED 1", f"{CONSTANT}calc:TIME 1", f"{CONSTANT}calc:TIME 2"]
    known = [
        f"{CONSTANT}calc:SAME 1",
        f"{CONSTANT}calc:MENDED 2",
        f"{CONSTANT}calc:NEW 1",
        f"{CONSTANT}calc:TIME 1",
        "line",
    ]
    assert kept_constants(known, before) == (f"{CONSTANT}calc:SAME 1", "line")
    places = Places(kept_constants(known, before))
    assert places.keeps("calc:SAME", "1") and not places.keeps("calc:SAME", "2") and places.keeps("calc:MENDED", "3")
