"""`python -m dpdt.submit STUDY …` is `dpdt submit STUDY …`."""

import sys

from dpdt.cli import main

main(["submit", *sys.argv[1:]])
