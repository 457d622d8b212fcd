"""MLflow as a view of the run folders: fed from them, rebuilt from them at any time. Nothing else imports mlflow."""
