"""What a model makes of a text, without training it: likelihoods per document, and intervals for them.

pieces = cut(tokenizer, texts, max_tokens)                   tokens, with the characters that they stand for
found = denoising(model, objective, pieces, language_ids)    bits per document; pseudo_likelihood for a masked LM
ratio(found.removed_bits, found.removed_characters, languages).estimate()
after.minus(before).estimate()                               paired: what is hard for both cancels out
"""
