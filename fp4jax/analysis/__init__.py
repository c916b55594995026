"""Pictures, statistics and reports of finished runs."""
