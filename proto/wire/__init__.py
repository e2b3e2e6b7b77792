"""Parts that every question shares on the wire: tensors, columns, batches of messages, names, errors."""
