"""The history over any span of time: rows of the database and rows of archives, without a gap and without a double row.

snapshot.py     one moment of the database: its rows, and the archives of those that have left it
engines.py      DuckDB in this process, or Apache Spark: the same questions to the files
performance.py  operations over time, with the histograms of the rollups
executions.py   query executions over time
statistics.py   sessions and hand-offs over time
session.py      all that is known of one session
plot.py         a picture (SVG)
"""
