"""Trains a model in its own dtype."""

from typing import Any

import torch
from lightning_fabric.plugins.precision.utils import _convert_fp_tensor
from lightning_utilities.core.apply_func import apply_to_collection
from pytorch_lightning.plugins.precision.deepspeed import DeepSpeedPrecision
from torch import Tensor, nn

from paceline.lightning_modules.backend.state import trained


def in_dtype_of(model: nn.Module, batch: Any) -> Any:
    """Converts the floating-point tensors of a batch to the dtype of the model's trained parameters."""
    dtype = trained(model)[0].dtype
    return apply_to_collection(batch, Tensor, _convert_fp_tensor, dst_type=dtype)


def convert(model: nn.Module, precision: int | str) -> None:
    """Converts a model to bfloat16 if the precision is `bf16`."""
    if precision == "bf16":
        for (
            module
        ) in model.modules():  # a LightningModule notes its dtype only if it is asked itself
            module.to(torch.bfloat16)


class OwnPrecision(DeepSpeedPrecision):
    """Keeps the dtype of a model and converts batches to it. Lightning would cast both to float32."""

    def __init__(self) -> None:
        super().__init__("32-true")

    def backward(self, tensor: Tensor, model: Any, *arguments: Any, **options: Any) -> None:
        # Lightning has already divided the loss by the number of batches that are accumulated.
        super().backward(tensor, model, *arguments, scale_wrt_gas=False, **options)

    def convert_module(self, module: nn.Module) -> nn.Module:
        self._desired_dtype = trained(module)[0].dtype
        return module
