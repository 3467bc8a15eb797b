"""Keeps read models: their files, what is in them, and the loop that brings them up to date."""
