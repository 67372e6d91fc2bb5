"""Shipment of checkpoints to bundles, step by step; unchanged steps are not repeated."""
