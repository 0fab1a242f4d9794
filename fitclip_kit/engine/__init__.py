"""The run: its settings, its work, its execution."""
