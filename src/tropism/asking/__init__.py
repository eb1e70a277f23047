"""Calls judges and runs searches, for whatever needs their results. No torch."""
