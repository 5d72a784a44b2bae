"""Text in, batches out: SQuAD-format files, token windows, batches, the Lightning datamodule."""
