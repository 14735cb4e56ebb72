"""python -m toolpost: the command line."""

from toolpost.transports.cli import main

if __name__ == "__main__":
    main()
