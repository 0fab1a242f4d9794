"""From annotation files and videos to clips tables and frame stores."""
