"""Files that are whole or absent, and the results that are kept in them."""
