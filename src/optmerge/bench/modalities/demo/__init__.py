"""One clip's story as a page: what is to be seen and heard, what is asked, and who answers what."""
