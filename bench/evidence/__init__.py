"""What each part of the autoscaler is worth: the same traces with the part switched off, next to published and simple
alternatives.
"""
