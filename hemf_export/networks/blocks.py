"""Names of HEMF's blocks, by the modules' names; knows nothing of torch.

In a reduced network, SIRMLP and MixedAttention stand for whatever is in their place.
"""

from __future__ import annotations

# Regular expressions for the beginning of a module's name → the block's; digits, counted from 0, become numbers from 1.
BLOCKS = (
    (r"local_steps\.(\d)[./]", "local step {}"),
    (r"global_steps\.(\d)[./]", "global step {}"),
    (r"local_stages\.(\d)[./]", "ELF {}"),
    (r"global_stages\.(\d)[./]", "EGF {}"),
    (r"fusion_stages\.(\d)\.mlp[./]", "HEF {} SIRMLP"),
    (r"fusion_stages\.(\d)\.(?:local|global)_attention[./]", "HEF {} MixedAttention"),
    (r"fusion_stages\.(\d)[./]", "HEF {} projections"),
    (r"head(?:_norm)?/", "head"),
)
