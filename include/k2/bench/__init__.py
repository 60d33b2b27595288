"""Measurements of K2 on the machine that it runs on."""
