"""Peak rates of cards, by the names that torch has for them. Torch-free."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """Peak rates of a card: bfloat16 operations (accumulated in float32) and bytes a second."""

    operations: float
    bandwidth: float


# NVIDIA's data sheets of each card, and of the RTX 4090 the Ada architecture's white paper (Appendix A); halved where
# they tell of sparse operands alone. Variants of one card have other memory and clocks, so a name is known as a whole.
_KNOWN = {
    "A100-SXM4-40GB": Card(312e12, 1.555e12),
    "A100-PCIE-40GB": Card(312e12, 1.555e12),
    "A100 80GB PCIe": Card(312e12, 1.935e12),
    "A100-SXM4-80GB": Card(312e12, 2.04e12),
    "H100 PCIe": Card(756e12, 2.0e12),
    "H100 NVL": Card(835e12, 3.9e12),
    "H100 80GB HBM3": Card(989e12, 3.35e12),
    "H200": Card(989e12, 4.8e12),
    "H200 NVL": Card(835e12, 4.8e12),
    "L4": Card(121e12, 0.3e12),
    "A10": Card(125e12, 0.6e12),
    "GeForce RTX 4090": Card(165.2e12, 1.008e12),
}
# Those that documents compare, in their SXM form.
CARDS = {"A100": _KNOWN["A100-SXM4-80GB"], "H100": _KNOWN["H100 80GB HBM3"]}


def known_card(device: str) -> Card | None:
    """The card of a device that torch calls so, if its peaks are known here; a slice of a card (MIG) has others."""
    return _KNOWN.get(device.removeprefix("NVIDIA "))
