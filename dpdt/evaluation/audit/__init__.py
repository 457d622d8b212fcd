"""Attacks on trainings, and checks of the mechanism."""
