"""Everything that imports Lightning: module, datamodule, callbacks, resuming."""
