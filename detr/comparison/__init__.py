"""Comparing runs by what they left in their folders. Only pictures need torch."""
