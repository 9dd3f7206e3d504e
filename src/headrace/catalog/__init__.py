"""Catalog: applied definitions, runs, alerts, decisions, and the tables behind the model registry."""
