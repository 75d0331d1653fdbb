"""Sound in: data set layouts, decoding, the log-mel front end, tokens, augmentation; and sound out."""
