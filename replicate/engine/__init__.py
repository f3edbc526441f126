"""Trains cells: the loop, its state and checkpoints, evaluation, and the plain reference it is measured against."""
