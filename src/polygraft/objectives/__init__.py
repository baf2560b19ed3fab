"""Training tasks: how rows become a batch (`collate`), and what the batch's summed loss is (`loss`)."""
