"""A layer on an analog in-memory-compute array, as it computes: converters, array blocks and read noise.

The inputs pass a DAC, ternary weights sit in the array, a column sums at most `rows` products, and the partial sum of
each block passes an ADC with Gaussian read noise before the blocks are added digitally. Gradients go straight through
both converters. Same computation in training and in evaluation. It takes plain numbers and knows no chip.
Follows the DIANA macro (Ueyoshi et al., ISSCC 2022) as `ir.quantized` writes it down.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from offramp.errors import AccelerationError
from offramp.ir.quantized import AnalogNumbers, Quantizer
from offramp.nn.quantizers import StepQuantizer, round_to_grid

_TABLE = 1 << 20

Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]


@dataclass(frozen=True, slots=True)
class AnalogSettings:
    """What an array does to a layer.

    Attributes:
        rows: products that one column can sum.
        input_bits: resolution of the input converter.
        adc_bits: resolution of the converter of a partial sum (signed).
        read_noise: standard deviation of the Gaussian noise before the ADC, in ADC steps.
    """

    rows: int = 1152
    input_bits: int = 7
    adc_bits: int = 6
    read_noise: float = 0.0

    def __post_init__(self) -> None:
        """Refuse sizes that no array has."""
        if min(self.rows, self.input_bits, self.adc_bits) < 1 or not 0 <= self.read_noise < float("inf"):
            raise AccelerationError(f"analog settings {self}", wanted="rows and bits >= 1, read_noise >= 0")


class NoiseSource:
    """Gaussian numbers from one seed, whatever the device; the seed is an argument, never global state.

    The numbers lie in a table of 2^20 that the seed fills, read from a place that is drawn anew for each tensor: fresh
    ones for every element would cost more than the convolution that they disturb.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed(seed)

    def seed(self, seed: int) -> None:
        """Start the sequence that belongs to this seed."""
        self._seed = seed
        self._places = torch.Generator().manual_seed(seed)
        self._tables: dict[torch.device, Tensor] = {}

    def like(self, x: Tensor) -> Tensor:
        """Standard normal numbers shaped and placed like `x`, in its memory format."""
        if x.device not in self._tables:
            generator = torch.Generator().manual_seed(self._seed)
            self._tables[x.device] = torch.randn(_TABLE, generator=generator).repeat(2).to(x.device)
        table, size = self._tables[x.device], x.numel()
        start = int(torch.randint(_TABLE, (), generator=self._places))
        if start + size > len(table):
            table = table.repeat(size // len(table) + 2)
        return table.as_strided(x.shape, x.stride(), start)

    def __deepcopy__(self, memo: dict[int, object]) -> "NoiseSource":
        copied = NoiseSource(self._seed)
        memo[id(self)] = copied
        return copied


class AnalogArray(nn.Module):
    """The matrix product of one layer through DAC, array blocks and ADC.

    Args:
        settings: the array's numbers.
        fan_in: (C, FY, FX) of the layer.
        source: quantizer of the input tensor.
        noise: where read noise comes from.

    Raises:
        AccelerationError: one input channel's filter does not fit into a column.
    """

    def __init__(
        self,
        settings: AnalogSettings,
        fan_in: tuple[int, int, int],
        source: StepQuantizer,
        noise: NoiseSource,
        name: str,
    ) -> None:
        super().__init__()
        self.settings, self.noise = settings, noise
        self._source = (source,)
        self.channels_per_block = settings.rows // (fan_in[1] * fan_in[2])
        if self.channels_per_block < 1:
            given = f"a filter of {fan_in[1]}x{fan_in[2]} for an array of {settings.rows} rows"
            raise AccelerationError(given, wanted="a filter that fits into one column", where=f"layer {name}")
        self.dac_bits = min(settings.input_bits, source.bits)
        self.adc = StepQuantizer(settings.adc_bits, signed=True)

    @property
    def dac_step(self) -> Tensor:
        """Step of the input converter: the tensor's own, coarser by a factor 2 per missing bit."""
        source = self._source[0]
        return source.step * float(2 ** (source.bits - self.dac_bits))

    def forward(self, x: Tensor, ternary: Tensor, product: Product) -> Tensor:
        """The summed products of input (real) and ternary weights, converters included.

        Args:
            product: convolution or dense product of an input block and a weight block, without bias.
        """
        if self.dac_bits < self._source[0].bits and self.adc.samples is None:
            x = self._convert_input(x)
        if self.channels_per_block >= x.shape[1]:
            return self._read(product(x, ternary, None))
        blocks = zip(*[torch.split(t, self.channels_per_block, 1) for t in (x, ternary)], strict=True)
        total, *rest = [self._read(product(a, w, None)) for a, w in blocks]
        for part in rest:
            total = total + part
        return total

    def _convert_input(self, x: Tensor) -> Tensor:
        """The input on the DAC's grid; halves are frequent, so evaluation rounds them as exact integers."""
        low, high = self._dac_range()
        if self.training:
            return round_to_grid(x, self.dac_step, low, high)
        source = self._source[0]
        integer = (x * source.step.reciprocal()).round_()
        return (integer * 2.0 ** (self.dac_bits - source.bits)).round_().clamp_(low, high).mul_(self.dac_step)

    def _read(self, partial: Tensor) -> Tensor:
        """One block's sum, in units of the input times ternary weights, through noise and ADC."""
        if self.settings.read_noise and self.adc.samples is None:
            deviation = self.adc.step.detach() * self.settings.read_noise
            partial = torch.addcmul(partial, self.noise.like(partial), deviation)
        return self.adc(partial)  # type: ignore[no-any-return]

    def _dac_range(self) -> tuple[int, int]:
        span = Quantizer(self.dac_bits, self._source[0].signed, 1.0)
        return span.low, span.high

    def frozen(self) -> AnalogNumbers:
        """The array as a value of `ir`."""
        dac = Quantizer(self.dac_bits, self._source[0].signed, float(self.dac_step.detach()))
        adc = Quantizer(self.adc.bits, True, float((self.adc.step / self.dac_step).detach()))
        return AnalogNumbers(self.settings.rows, dac, adc, self.settings.read_noise)
