"""What several tasks draw with."""
