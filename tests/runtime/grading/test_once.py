"""Values found out once: by whoever asks first, also when that one gives up; failures are found out again."""

from __future__ import annotations

import asyncio

import pytest

from runtime.grading.once import Once


def test_a_value_is_made_once_and_outlives_who_asked() -> None:
    async def main() -> None:
        once: Once[str, int] = Once()
        calls: list[int] = []
        go = asyncio.Event()

        async def make() -> int:
            calls.append(1)
            await go.wait()
            return 7

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(once.get("a", make), 0.01)
        go.set()
        assert [await once.get("a", make), await once.get("a", make), await once.get("b", make)] == [7, 7, 7]
        assert len(calls) == 2

    asyncio.run(main())


def test_failures_are_not_kept_and_closing_ends_what_runs() -> None:
    async def main() -> None:
        once: Once[str, int] = Once()
        results = iter([ValueError("busy"), 3])

        async def make() -> int:
            result = next(results)
            if isinstance(result, ValueError):
                raise result
            return result

        with pytest.raises(ValueError, match="busy"):
            await once.get("a", make)
        assert await once.get("a", make) == 3

        async def never() -> int:
            await asyncio.Event().wait()
            raise AssertionError

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(once.get("b", never), 0.01)
        await once.close()

    asyncio.run(main())
