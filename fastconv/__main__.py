"""`python -m fastconv` is the command `fastconv`."""

from __future__ import annotations

from fastconv.cli.app import main

if __name__ == "__main__":
    main()
