"""Autonomous hyperparameter tuning: parallel worker agents under a coordinator that code keeps honest."""
