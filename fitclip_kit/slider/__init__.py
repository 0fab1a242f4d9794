"""The alpha slider: what its page shows, computed by plain functions, and the widgets around it."""
