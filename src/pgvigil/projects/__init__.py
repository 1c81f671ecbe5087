"""The migrations of other teams, kept by pgvigil: a project, its files, its ledgers, and its chain for the runner."""
