"""The modality benchmark: clips to see and to hear, questions about them, and real data sets."""
