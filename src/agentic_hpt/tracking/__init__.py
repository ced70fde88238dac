"""What MLflow is told and asked: the driver's side, and the writer process that alone talks to MLflow."""
