"""The state of a model. Replicas exchange its trained parameters and its floating-point buffers."""

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

Kind = Literal["weights", "frozen", "buffers", "counters"]
Key = tuple[Kind, torch.dtype]
NORM_BLOCK = 2**16  # numbers whose squares are added in float32


def trained(model: nn.Module) -> list[nn.Parameter]:
    """Returns the trained parameters, in the order of `tensors(model, "weights")`.

    Tied parameters appear once. Frozen ones are left out.
    """
    found: dict[torch.dtype, list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            found.setdefault(parameter.dtype, []).append(parameter)
    return [parameter for group in found.values() for parameter in group]


def groups(model: nn.Module, *kinds: Kind) -> dict[Key, list[Tensor]]:
    """Returns the tensors of a model's state, by kind and dtype. Without `kinds`, it returns all kinds.

    `weights` are the trained parameters, and `frozen` are the other parameters. `buffers` are the
    floating-point buffers, such as the running statistics of batch normalisation. `counters` are the
    other buffers, which have no mean. Non-persistent buffers are not part of the state.
    """
    found: dict[Key, list[Tensor]] = {}

    def add(kind: Kind, tensor: Tensor) -> None:
        if not kinds or kind in kinds:
            found.setdefault((kind, tensor.dtype), []).append(tensor.detach())

    for parameter in model.parameters():
        add("weights" if parameter.requires_grad else "frozen", parameter)
    named = dict(model.named_buffers())
    persistent = model.state_dict(keep_vars=True) if named else {}
    for name, buffer in named.items():
        if name in persistent:
            add("buffers" if buffer.is_floating_point() else "counters", buffer)
    return found


def tensors(model: nn.Module, *kinds: Kind) -> list[Tensor]:
    """Returns the tensors of these kinds, or of all kinds, in the order of `groups`."""
    return [tensor for group in groups(model, *kinds).values() for tensor in group]


def digest(model: nn.Module) -> bytes:
    """Returns the SHA-256 of all parameters and buffers of a model."""
    found = hashlib.sha256()
    for tensor in tensors(model):
        found.update(as_bytes(tensor).cpu().numpy().data)
    return found.digest()


class State:
    """Some tensors of a model, stored as one flat vector for each kind and dtype.

    A state can be added and scaled like a vector. Both operands of a sum must have the same parts.

    Attributes:
        parts: the vectors, by kind and dtype.
        shapes: the shapes of the tensors in each vector, in order.
    """

    def __init__(self, parts: dict[Key, Tensor], shapes: dict[Key, list[torch.Size]]) -> None:
        self.parts, self.shapes = parts, shapes

    @classmethod
    def of(cls, tensors: dict[Key, list[Tensor]]) -> "State":
        """Makes a state from a copy of these tensors."""
        return cls(
            {key: torch.cat([t.flatten() for t in group]) for key, group in tensors.items()},
            {key: [t.shape for t in group] for key, group in tensors.items()},
        )

    @property
    def weights(self) -> "State":
        """The trained parameters of this state, without a copy."""
        return self._only("weights")

    @property
    def buffers(self) -> "State":
        """The floating-point buffers of this state, without a copy."""
        return self._only("buffers")

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts.values())

    def tensors(self) -> list[Tensor]:
        """Returns views of the vectors in the shapes of the model's tensors, part by part."""
        return [
            piece.view(shape)
            for key, part in self.parts.items()
            for piece, shape in zip(
                part.split([shape.numel() for shape in self.shapes[key]]),
                self.shapes[key],
                strict=True,
            )
        ]

    def copy_to(self, model: nn.Module) -> None:
        """Overwrites in place the tensors of `model` that belong to a part of this state."""
        own = groups(model)
        targets = [tensor for key in self.parts for tensor in own[key]]
        for target, tensor in zip(targets, self.tensors(), strict=True):
            target.copy_(tensor)

    def map(self, function: Callable[..., Tensor], *others: "State") -> "State":
        """Applies `function` to each part, together with the same parts of `others`."""
        return State(
            {
                key: function(part, *(o.parts[key] for o in others))
                for key, part in self.parts.items()
            },
            self.shapes,
        )

    def norm(self) -> float:
        """Returns the Euclidean norm over all parts.

        It is computed in blocks. A single sum in float32 would be wrong for large models, and a copy in
        float64 would take several times as long as the rest of an exchange.
        """
        squares = 0.0
        for part in self.parts.values():
            dtype = torch.promote_types(part.dtype, torch.float32)
            norms = torch._foreach_norm(part.split(NORM_BLOCK), dtype=dtype)
            squares += torch.stack(norms).double().square().sum().item()
        return math.sqrt(squares)

    def __add__(self, other: "State") -> "State":
        return self.map(torch.add, other)

    def __sub__(self, other: "State") -> "State":
        return self.map(torch.sub, other)

    def __mul__(self, factor: float) -> "State":
        return self.map(lambda part: part * factor)

    __rmul__ = __mul__

    def __iadd__(self, other: "State") -> "State":
        return self.map(Tensor.add_, other)

    def __isub__(self, other: "State") -> "State":
        return self.map(Tensor.sub_, other)

    def move_towards(self, other: "State", share: float) -> None:
        """Moves this state in place by a share of its distance to `other`."""
        self.map(lambda part, aim: part.lerp_(aim, share), other)

    def __or__(self, other: "State") -> "State":
        """Returns a state with the parts of both. They must have no part in common."""
        return State({**self.parts, **other.parts}, {**self.shapes, **other.shapes})

    def _only(self, kind: Kind) -> "State":
        parts = {key: part for key, part in self.parts.items() if key[0] == kind}
        return State(parts, {key: self.shapes[key] for key in parts})


def pack(tensors: Iterable[Tensor]) -> Tensor:
    """Returns the bytes of tensors of any dtypes in one vector on the CPU."""
    parts = [as_bytes(tensor).cpu() for tensor in tensors]
    return torch.cat([torch.empty(0, dtype=torch.uint8), *parts])


def unpacked(packed: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Returns packed tensors, given tensors of their shapes and dtypes. The inverse of `pack`.

    They are views of `packed`, except where its bytes lie between the places of numbers of a dtype.
    """
    found = []
    for tensor, part in zip(like, packed.split([tensor.nbytes for tensor in like]), strict=True):
        if part.storage_offset() % tensor.element_size():
            part = part.clone()
        found.append(part.view(tensor.dtype).view_as(tensor))
    return found


def unpack(packed: Tensor, tensors: list[Tensor]) -> None:
    """Overwrites `tensors` with packed tensors of the same shapes and dtypes."""
    for tensor, part in zip(tensors, unpacked(packed, tensors), strict=True):
        tensor.copy_(part)


def as_bytes(tensor: Tensor) -> Tensor:
    """Returns the bytes of a tensor of any dtype as a vector."""
    return tensor.detach().contiguous().flatten().view(torch.uint8)
