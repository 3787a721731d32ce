"""`python -m app.cli` is the `palate` command."""

from app.cli.commands import main

if __name__ == "__main__":
    main()
