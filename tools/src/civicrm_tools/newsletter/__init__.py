"""The public archive of sent newsletters (`archive`)."""
