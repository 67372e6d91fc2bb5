"""Training: labelled images → checkpoint, with data sets, recipes, distillation and ablations."""
