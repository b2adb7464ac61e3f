"""The verbs of `detr VERB`: a module each, whose docstring says what it does and whose `main` does it."""
