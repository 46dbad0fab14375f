"""The suite: every method, expert set and capability, from weights to records to tables and figures."""
