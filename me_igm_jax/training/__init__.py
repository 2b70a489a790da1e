"""The training loop, traced: roll-out, replay, gradient steps, evaluation. Read train.py first."""
