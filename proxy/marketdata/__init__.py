"""The convenience API: candles beyond one page, several symbols at once, prices of pairs. docs/marketdata.md

marketdata   which page is asked, and what becomes of mistakes      (openapi.json: all of it, described)
candles      of one symbol: the newest, or a history while it is read
batch        of several symbols
prices       of a pair
pages        the pages of a walk (policies/walk.py), some fetched ahead
asking       one question to the exchange through the gateway's own corridor, and what its answer means
ahead        results in order, a bounded number of them under way
room         how much may be held at one time
"""
