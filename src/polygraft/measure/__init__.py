"""What a model makes of a text, without training it: likelihoods per document, and intervals for them."""
