"""From a file of rows to tokens and labels: reading, formats, chat rendering, masks, order and packing."""
