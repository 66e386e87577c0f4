"""``python -m liverl``: the same as the ``liverl`` command."""

from liverl.cli import main

if __name__ == "__main__":
    main()
