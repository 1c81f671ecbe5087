"""Other teams' migrations, kept by pgvigil: what a project is, its files, its ledgers, and its chain for the runner."""
