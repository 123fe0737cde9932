"""The LightningModule, stages, optimiser, run folders."""
