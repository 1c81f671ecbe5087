"""Check migration files by running them on a temporary server and measuring what each statement locks, rewrites and
reads.
"""
