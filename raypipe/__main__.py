"""``python -m raypipe`` is the command ``raypipe``."""

from raypipe.cli.app import main

if __name__ == "__main__":
    main()
