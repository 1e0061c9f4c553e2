"""`python -m vitrellis` is the command `vitrellis`."""

from vitrellis.cli.main import main

if __name__ == "__main__":
    main()
