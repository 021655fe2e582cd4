"""`download`: candles of any length of time into a file, as fast as the budget allows, and on from where it stopped.

    command -> run -> symbol -> ordered -> fetching -> asking -> a gateway, running or our own (alone)
                        |
                        +-> target (files on the disk: part, journal, text, parquet)

What a block is and what its rows must be is decided in policies/blocks.py and policies/block_rows.py.
"""
