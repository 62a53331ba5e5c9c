"""Task perturbation: predict the response to perturbations."""
