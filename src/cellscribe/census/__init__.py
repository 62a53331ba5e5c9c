"""The CELLxGENE Census, or any SOMA store shaped like it, to one h5ad a dataset."""
