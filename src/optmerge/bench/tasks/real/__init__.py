"""Real data sets of questions about videos with sound, from their own annotation files and media folders."""
