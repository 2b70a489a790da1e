"""Maths on arrays: functions without parameters of their own and without state."""
