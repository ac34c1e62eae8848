"""The dtype that a model is trained in: its own."""

from typing import Any

from lightning_fabric.plugins.precision.utils import _convert_fp_tensor
from lightning_utilities.core.apply_func import apply_to_collection
from pytorch_lightning.plugins.precision.deepspeed import DeepSpeedPrecision
from torch import Tensor, nn

from paceline.lightning_modules.backend.state import trained


def in_dtype_of(model: nn.Module, batch: Any) -> Any:
    """A batch whose floating-point tensors have the dtype of the model's trained parameters."""
    dtype = trained(model)[0].dtype
    return apply_to_collection(batch, Tensor, _convert_fp_tensor, dst_type=dtype)


class OwnPrecision(DeepSpeedPrecision):
    """Leaves a model in its dtype, where Lightning casts it to float32, and gives it batches in that."""

    def __init__(self) -> None:
        super().__init__("32-true")

    def convert_module(self, module: nn.Module) -> nn.Module:
        self._desired_dtype = trained(module)[0].dtype
        return module
