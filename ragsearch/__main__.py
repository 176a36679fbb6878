"""`python -m ragsearch`: the command line, where the script is not on the path."""

from ragsearch.cli import main

if __name__ == "__main__":
    main()
