"""What is being taken away is waited for at the end, however often those who asked for it were cancelled."""

from __future__ import annotations

import asyncio

import pytest

from runtime.sandboxes.leaving import Leaving


def test_a_caller_that_is_cancelled_again_leaves_nothing_behind() -> None:
    async def main() -> list[str]:
        leaving, done, begun = Leaving(), list[str](), asyncio.Event()

        async def delete() -> None:
            begun.set()
            await asyncio.sleep(0.05)
            done.append("deleted")

        async def caller() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                await leaving.await_(delete())

        task = asyncio.create_task(caller())
        await asyncio.sleep(0)
        task.cancel()
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert done == []
        await leaving.close()
        return done

    assert asyncio.run(main()) == ["deleted"]


def test_an_end_that_fails_is_told_to_who_waits_and_not_to_close() -> None:
    async def main() -> None:
        leaving = Leaving()

        async def fails() -> None:
            await asyncio.sleep(0.01)
            raise OSError("gone")

        with pytest.raises(OSError, match="gone"):
            await leaving.await_(fails())
        waiting = asyncio.create_task(leaving.await_(fails()))
        await asyncio.sleep(0)
        waiting.cancel()
        await leaving.close()

    asyncio.run(main())
