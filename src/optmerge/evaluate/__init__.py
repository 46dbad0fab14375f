"""A model is asked: questions in, answers and scores out."""
