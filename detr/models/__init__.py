"""The detector and its parts."""
