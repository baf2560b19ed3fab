"""Training tasks. Each has `collate` (rows → batch), `loss` (model, batch → summed loss) and `tokens` (batch → count)."""
