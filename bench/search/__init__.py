"""The search benchmark: the product's strategies and coordinators, driven without graph, ledger and MLflow."""
