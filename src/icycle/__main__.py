"""`python -m icycle`, which is the `icycle` command."""

from icycle.cli import main

main()
