"""What the server does for one statement: its plan, its time, and advice. Everything is rolled back."""
