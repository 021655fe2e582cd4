"""The archive: every closed candle that was fetched, once, in PostgreSQL. docs/archive.md

archive.py is the door; waiting.py the bounded queue; writer.py, reader.py and retention.py work beside the requests,
each on connections of its own; line.py is one connection, and the only room that knows asyncpg; migrate.py makes the
tables, as migrations/ say.
"""
