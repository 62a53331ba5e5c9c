"""``python -m cellscribe``, and the command ``cellscribe``.

Importing takes half a second, in which Ctrl-C is already answered as it is later.
"""

import signal
import sys


def main() -> None:
    """Run the command line; leaves by SystemExit, see `cli.app.main`."""
    signal.signal(signal.SIGINT, _leave)
    signal.signal(signal.SIGTERM, _leave)
    from cellscribe.cli import main as run

    signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


def _leave(number: int, frame: object) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
