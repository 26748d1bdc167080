"""What several test files share: data that they make, models, engines and processes that stand in for real ones."""
