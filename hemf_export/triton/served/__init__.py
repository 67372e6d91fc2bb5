"""Programs for Triton's Python backend, copied into a model's repository; as hemf-export isn't installed there, none
of these files may import it."""
