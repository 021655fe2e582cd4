"""Benchmarks: the gateway beside nginx and beside a plain FastAPI+httpx proxy, on the machine at hand.

Run `python -m bench`. Contenders take turns round by round, so that whatever else the machine does meets all of them;
what counts are the ratios of neighbouring rounds. bench/README.md tells how to read the rows.
"""
