"""The repair tools on a repository in memory: what the agent reads, what is kept and what is undone."""

from runtime.laptop.policy.memory import MemoryWorkspace
from runtime.laptop.tools.debugger import MAX_STOPS, NOTHING, SOLVED, UNDONE, Debugger

BROKEN = """def price(cost, fee):
    total = cost - fee  # plus
    if total > 19:  # above
        total += 10
    return total
"""
TESTS = """from shop.till import price


def test_small():
    assert price(1, 10) == 11


def test_large():
    assert price(10, 10) == 30
"""
IDS = ("tests/test_till.py::test_small", "tests/test_till.py::test_large")


def workspace(source: str = BROKEN) -> MemoryWorkspace:
    return MemoryWorkspace({"shop/__init__.py": "", "shop/till.py": source}, {"tests/test_till.py": TESTS}, IDS)


def test_run_stops_at_the_first_repairable_executed_line() -> None:
    debugger = Debugger(workspace(), max_edits=3)
    assert debugger.call("next") == "run first"
    assert debugger.call("run") == ("FAIL price(1, 10) gave -9, want 11\ntotal = cost - fee  # plus\nlow flip +")
    assert debugger.call("next") == ("if total > 19:  # above\nlow widen >= reverse < negate not raise 20 lower 18")
    # ``total += 10`` was not executed; after the last line comes the first.
    assert debugger.call("next") == "again total = cost - fee  # plus\nlow flip +"


def test_the_right_repair_is_kept() -> None:
    repository = workspace()
    debugger = Debugger(repository, max_edits=3)
    debugger.call("run")
    assert debugger.call("flip") == SOLVED
    assert repository.read("shop/till.py")[1] == "    total = cost + fee  # plus"
    assert debugger.call("next") == debugger.call("widen") == SOLVED
    assert debugger.edits == 1


def test_a_wrong_repair_is_undone_and_costs_an_edit() -> None:
    repository = workspace()
    debugger = Debugger(repository, max_edits=2)
    debugger.call("run")
    debugger.call("next")
    assert debugger.call("widen").startswith(f"{UNDONE}\nagain total")
    assert debugger.call("rename").startswith(f"{NOTHING}\n")
    assert repository.read("shop/till.py") == BROKEN.split("\n")
    assert debugger.exhausted


def test_nothing_to_do_when_all_tests_pass() -> None:
    debugger = Debugger(workspace(BROKEN.replace("cost - fee", "cost + fee")), max_edits=3)
    assert debugger.call("run") == SOLVED


def test_an_exception_is_a_failure_with_its_name() -> None:
    debugger = Debugger(workspace(BROKEN.replace("cost - fee", "cost // 0")), max_edits=3)
    assert debugger.call("run").startswith("FAIL ZeroDivisionError: ")
    assert debugger.observe().split("\n")[1].startswith("error ")


def test_of_many_executed_lines_the_last_are_stopped_at_in_the_order_of_the_file() -> None:
    many = 40
    body = "".join(f"    a{n} = a{n - 1} + 1\n" for n in range(1, many + 1))
    source = f"def helper(a0):\n{body}    return a{many}\n\n\ndef price(cost, fee):\n    return helper(cost) - fee\n"
    debugger = Debugger(workspace(source), max_edits=3)
    debugger.call("run")
    # price's own line ran before the helper's: only what ran last is near to the failure.
    assert debugger.stops == [("shop/till.py", index) for index in range(many + 1 - MAX_STOPS, many + 1)]
