"""What experts changed and what a merge does to them, measured on weights alone."""
