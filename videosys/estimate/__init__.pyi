"""The public names of the estimate, and where they are."""

from .cost import (
    Estimate as Estimate,
    estimate as estimate,
)
