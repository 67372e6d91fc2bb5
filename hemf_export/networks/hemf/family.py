"""HEMF as a family of networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from hemf_export.networks.configuration import NetworkConfig
from hemf_export.networks.count import Count
from hemf_export.networks.hemf import authors, variants
from hemf_export.networks.hemf.config import SIZES, HemfConfig
from hemf_export.networks.hemf.count import count_parts, table_3
from hemf_export.networks.hemf.initialization import initialize
from hemf_export.networks.hemf.model import HEMF
from hemf_export.networks.network import Family, Layout

ROOTS = frozenset(  # first parts of the network's own names
    ["local_steps", "global_steps", "local_stages", "global_stages", "fusion_stages", "head_norm", "head"]
)


class HemfFamily(Family):
    """HEMF, whose configuration follows from the shapes of a state dict, registered or not."""

    def infer(self, state: Mapping[str, Tensor], image_size: int | None = None) -> NetworkConfig:
        """See `Family.infer`."""
        return authors.infer_config(state, image_size or authors.IMAGE_SIZE)

    @property
    def variants(self) -> tuple[str, ...]:
        """See `Family.variants`."""
        return tuple(variants.VARIANTS)

    def vary(self, config: HemfConfig, variant: str) -> NetworkConfig:
        """See `Family.vary`."""
        return variants.vary(config, variant)

    def variant_of(self, config: HemfConfig) -> str | None:
        """See `Family.variant_of`."""
        return variants.variant_of(config)

    def count(self, config: HemfConfig) -> dict[str, Count]:
        """See `Family.count`."""
        return count_parts(config)

    @property
    def paper_counting(self) -> str:
        """See `Family.paper_counting`."""
        return (
            "Published way: as the thop package counts on the authors' code, which knows some layers only: no layer "
            "norms but the head's, no products of attention, but operations of BatchNorm, softmax and pooling."
        )

    def table_3(self, config: HemfConfig) -> tuple[Mapping[str, Any], ...]:
        """See `Family.table_3`."""
        listed = config.width == 96 and config.image_size == 224 and config.mlp in ("sirmlp", "irmlp")
        return tuple(table_3()) if listed else ()

    def convert(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """See `Family.convert`."""
        return authors.convert(state) if authors.is_authors_layout(state) else (dict(state), [])


FAMILY = HemfFamily(
    name="hemf",
    title="HEMF (He et al. 2025, doi:10.7717/peerj-cs.3181)",
    config=HemfConfig,
    sizes=SIZES,
    network=HEMF,
    initialize=initialize,
    layout=Layout(
        marks=(r"stages2\.|local_steps\.|global_steps\.|local_stages\.|global_stages\.|fusion_stages\.",),
        roots=ROOTS | authors.ROOTS,
    ),
)
