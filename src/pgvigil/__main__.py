"""`python -m pgvigil`: what the scripts call, so that a checkout works before anything is installed."""

from pgvigil.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
