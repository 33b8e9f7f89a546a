"""What a run would cost on a TPU slice, found out without a TPU."""
