"""What a training adds to Lightning: the run's record, checkpoints, exact resuming, compilation, the allocator."""
