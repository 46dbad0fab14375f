"""The coefficients of a merge chosen by questions: method, strength, weights, parameters."""
