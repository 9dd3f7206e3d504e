"""Model registry: versions with their artifacts and aliases, and how a version is loaded to predict."""
