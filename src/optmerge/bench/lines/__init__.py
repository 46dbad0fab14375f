"""The benchmark's two lines of models: tiny ones of real architectures, behind one interface."""
