"""The embedded data set: pictures of shapes, generated once."""
