"""Attacks, one file for each actor. Each test is an attack that must be held."""
