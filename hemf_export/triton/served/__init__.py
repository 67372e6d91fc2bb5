"""What Triton's Python backend runs. Copied into a model's repository; nothing of hemf-export is there, so none of
these files may import anything of it."""
