"""What leaves the house: the model card, the licences of what a model was made from, and the upload to the hub."""
