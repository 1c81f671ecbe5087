"""The work of the server for one statement: its plan, its time, and advice. Everything is rolled back."""
