"""`python -m dpdt.submit STUDY …` is `dpdt submit STUDY …`."""

import sys

from dpdt.cli import main

if __name__ == "__main__":
    main(["submit", *sys.argv[1:]])
