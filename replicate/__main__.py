"""``python -m replicate``: the command line without installing."""

from replicate.cli import main

if __name__ == "__main__":
    main()
