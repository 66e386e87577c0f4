"""Nothing of one task is in the memory of a process in which another task's untrusted code runs, nor of its parents."""

import asyncio
import secrets
from pathlib import Path

import pytest

from runtime.sandboxes.base import SandboxProvider, SandboxRequest
from runtime.sandboxes.userns import spare_user

from .conftest import IMAGE

pytestmark = pytest.mark.sandbox

# The pattern does not match itself, so that what is found was left by somebody else.
LOOK = r"""
import os, re
MARK = re.compile(b"SIBL[I]NG-[0-9a-f]{16}")
def look():
    found = set()
    for pid in [name for name in os.listdir("/proc") if name.isdigit()]:
        try:
            with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
                for line in maps:
                    if " r" in line and "[v" not in line:
                        start, end = (int(word, 16) for word in line.split()[0].split("-"))
                        try:
                            memory.seek(start)
                            found |= set(MARK.findall(memory.read(end - start)))
                        except (OSError, ValueError, OverflowError):
                            pass
        except OSError:
            pass
    return sorted(text.decode() for text in found)
"""
TEST = "from calc import look\ndef test_look():\n    found = look()\n    assert found == [], found\n"
PLANTED = 'MARK = "{mark}"\ndef {name}():\n    """{mark}"""\n    return "{mark}"\n'


def repository(root: Path, calc: str, test: str) -> Path:
    (root / "tests").mkdir(parents=True)
    (root / "calc.py").write_text(calc)
    (root / "tests" / "test_calc.py").write_text(test)
    return root


async def first(provider: SandboxProvider, lower: Path, image: str | None) -> None:
    """Run the sibling's tests, so that all that is ever prepared for a repository is prepared."""
    box = await provider.start(SandboxRequest(name="sibling", lower=lower, image=image))
    try:
        runner = "mini" if image is None else "pytest"
        report = await box.run_tests(runner, timeout_sec=60, ids=["tests/test_calc.py"])
        assert [entry["outcome"] for entry in report["tests"].values()] == ["passed"], report
    finally:
        await box.stop()


@pytest.mark.parametrize("image", [None, IMAGE], ids=["mini", "pytest"])
@pytest.mark.parametrize("second_user", [False, True])
def test_no_text_of_a_sibling_is_in_memory(
    provider: SandboxProvider, loop: asyncio.Runner, tmp_path: Path, image: str | None, second_user: bool
) -> None:
    if second_user and spare_user() is None:
        pytest.skip("a second user can be mapped by root alone")
    mark = f"SIBLING-{secrets.token_hex(8)}"
    planted = PLANTED.format(mark=mark, name=f"add_{mark.replace('-', '_')}")
    test = f'import calc\ndef test_{mark.lower().replace("-", "_")}():\n    assert calc.MARK == "{mark}"\n'
    sibling = repository(tmp_path / mark, planted, test)
    mine = repository(tmp_path / "mine", LOOK, TEST)

    async def main() -> None:
        await first(provider, sibling, image)
        request = SandboxRequest(name="mine", lower=mine, image=image, second_user=second_user)
        box = await provider.start(request)
        try:
            apart = {"trusted": ["tests/test_calc.py"], "python_path": [], "modules": ["calc"]} if second_user else {}
            runner = "mini" if image is None else "pytest"
            report = await box.run_tests(runner, timeout_sec=60, ids=["tests/test_calc.py"], test_timeout=60, **apart)
            assert [entry["outcome"] for entry in report["tests"].values()] == ["passed"], report
            # A program of ours that is forked, not started: its children may read its memory.
            argv = ["python3", "/opt/liverl/testkit/mini.py", "/app", "--timeout", "60"]
            done = await box.exec(argv, timeout_sec=60)
            assert done.exit_code == 0, done.stdout.decode()
        finally:
            await box.stop()

    loop.run(main())
