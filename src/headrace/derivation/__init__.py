"""Deriving: logged streams computed from other streams and from what is looked up at each of their events."""
