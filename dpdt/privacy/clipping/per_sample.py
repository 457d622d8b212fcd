"""What a layer's backward pass leaves for book-keeping: enough for the norm of each image's gradient, and for sums.

A piece belongs to one parameter and one use of it in the forward pass. `squared_norms` is for clipping, `weighted_sum`
the second contraction: the sum of the images' gradients, each times its factor. `rows` is each image's gradient, for
parameters that are used more than once and for units of several images. All of it is float32 or better.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from dpdt.privacy.clipping.convolutions import (
    WAYS,
    Convolution,
    gram_squared_norms,
    squared_norms_of_products,
    weight_gradient,
)
from dpdt.privacy.clipping.gradient_sum import add_rows, full, squared_norms

__all__ = ["ConvolutionPiece", "EmbeddingPiece", "LinearPiece", "Piece", "Rows"]


class Piece(Protocol):
    """One use of one parameter."""

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter of this gradient."""

    def __len__(self) -> int:
        """Number of images."""

    def squared_norms(self) -> Tensor:
        """float64, shape (images,)."""

    def rows(self) -> Tensor:
        """Gradient of each image, float32, shape (images, numbers)."""

    def weighted_sum(self, factors: Tensor) -> Tensor:
        """The sum of the images' gradients, each times its factor, in new memory and the parameter's shape."""

    def forget(self, images: Tensor) -> None:
        """Make the gradients of some images zero; `images` is a mask. What is not finite cannot be multiplied away."""


@dataclass
class Rows:
    """The gradient itself, one row an image."""

    parameter: nn.Parameter
    gradients: Tensor

    def __len__(self) -> int:
        return len(self.gradients)

    def squared_norms(self) -> Tensor:
        """From the rows themselves."""
        return squared_norms(self.gradients)

    def rows(self) -> Tensor:
        """The rows."""
        return self.gradients

    def weighted_sum(self, factors: Tensor) -> Tensor:
        """One matrix product with the factors."""
        return torch.mv(self.gradients.t(), factors).view(self.parameter.shape)

    def forget(self, images: Tensor) -> None:
        """Overwrites them."""
        self.gradients[images] = 0.0


@dataclass
class ConvolutionPiece:
    """A weight with a norm from the products of places (`gram`): input and output gradient are kept."""

    parameter: nn.Parameter
    shape: Convolution
    x: Tensor
    gy: Tensor

    def __len__(self) -> int:
        return len(self.x)

    def squared_norms(self) -> Tensor:
        """From the products of places, without the gradient."""
        return gram_squared_norms(self.shape, x=self.x, gy=self.gy, weight=self.parameter)

    def rows(self) -> Tensor:
        """Each image as a separate group."""
        return WAYS["grouped"](self.shape, x=full(self.x), gy=full(self.gy), weight=self.parameter)

    def weighted_sum(self, factors: Tensor) -> Tensor:
        """The ordinary weight gradient, of a scaled output gradient."""
        weighted = self.gy * factors.view(-1, 1, 1, 1)
        return weight_gradient(self.shape, x=full(self.x), gy=weighted, weight=self.parameter)

    def forget(self, images: Tensor) -> None:
        """In copies."""
        self.x, self.gy = _without(self.x, images), _without(self.gy, images)


@dataclass
class LinearPiece:
    """The weight of a linear layer: x (images, places, inputs) and gy (images, places, outputs)."""

    parameter: nn.Parameter
    x: Tensor
    gy: Tensor

    def __len__(self) -> int:
        return len(self.x)

    def squared_norms(self) -> Tensor:
        """From the products of places; of one place, a product of two norms."""
        x, gy = self.x.double(), self.gy.double()
        return squared_norms_of_products(torch.bmm(x, x.transpose(1, 2)), torch.bmm(gy, gy.transpose(1, 2)))

    def rows(self) -> Tensor:
        """One matrix product an image."""
        return torch.bmm(full(self.gy).transpose(1, 2), full(self.x)).flatten(1)

    def weighted_sum(self, factors: Tensor) -> Tensor:
        """One matrix product for all images and places."""
        weighted = (self.gy * factors.view(-1, 1, 1)).flatten(0, 1)
        return weighted.t() @ full(self.x).flatten(0, 1)

    def forget(self, images: Tensor) -> None:
        """In copies."""
        self.x, self.gy = _without(self.x, images), _without(self.gy, images)


@dataclass
class EmbeddingPiece:
    """The table of an embedding: indices (images, places) and gy (images, places, numbers of an entry)."""

    parameter: nn.Parameter
    indices: Tensor
    gy: Tensor

    def __len__(self) -> int:
        return len(self.indices)

    def squared_norms(self) -> Tensor:
        """From the products of places that have the same index."""
        gy = self.gy.double()
        same = (self.indices.unsqueeze(1) == self.indices.unsqueeze(2)).double()  # products of one-hot vectors
        return squared_norms_of_products(same, torch.bmm(gy, gy.transpose(1, 2)))

    def rows(self) -> Tensor:
        """A table an image."""
        table = full(self.gy).new_zeros(len(self), *self.parameter.shape)
        place = torch.arange(len(self), device=self.gy.device).unsqueeze(1).expand_as(self.indices)
        return table.index_put_((place, self.indices), full(self.gy), accumulate=True).flatten(1)

    def weighted_sum(self, factors: Tensor) -> Tensor:
        """Adds each place to its entry."""
        weighted = (self.gy * factors.view(-1, 1, 1)).flatten(0, 1)
        return add_rows(weighted.new_zeros(self.parameter.shape), self.indices.flatten(), weighted)

    def forget(self, images: Tensor) -> None:
        """In a copy."""
        self.gy = _without(self.gy, images)


def _without(values: Tensor, images: Tensor) -> Tensor:
    """A copy in which some images are zero: the original may be another layer's too."""
    return values.masked_fill(images.view(-1, *[1] * (values.ndim - 1)), 0.0)
