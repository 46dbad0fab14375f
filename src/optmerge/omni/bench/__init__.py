"""The modality benchmark: clips that are seen, heard or both, what is asked about them, and real data sets."""
