"""``python -m cellscribe``."""

from cellscribe.cli import main

main()
