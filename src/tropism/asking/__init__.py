"""Asking judges and driving searches on behalf of whoever needs an answer. No torch."""
