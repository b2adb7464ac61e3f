"""Comparing runs by what they left in their folders: settings, intervals, tables and a page. No torch but for pictures."""
