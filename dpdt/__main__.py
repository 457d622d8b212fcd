"""`python -m dpdt` is `dpdt`."""

from dpdt.cli import main

main()
