"""Training: split by time, fit, evaluate, and judge a challenger. Point-in-time rows come from `retrieval`."""
