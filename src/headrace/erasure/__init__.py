"""Erasure of one entity: what the logs, stores and files hold under its key, and what names it."""
