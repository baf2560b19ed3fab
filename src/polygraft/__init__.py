"""polygraft: adapt a masked language model, transfer it into mBART, fine-tune, and see whether the transfer helped."""

__version__ = "0.1.0"
