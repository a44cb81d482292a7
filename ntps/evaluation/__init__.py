"""What scores are worth: correlations with accuracies, choices judged on held-out data sets, predicted gains."""
