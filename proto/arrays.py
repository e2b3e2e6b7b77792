"""Arrays of questions and answers, and the letters of their shapes.

B neurons, E dataset examples of those neurons together, M merges of those neurons together (a neuron with n examples
has max(n - 1, 0)), T tokens, D d_model. Batches are flat: neuron b's examples follow neuron b - 1's.
"""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
IntArray: TypeAlias = npt.NDArray[np.int32]
FloatArray: TypeAlias = npt.NDArray[np.float32]
DoubleArray: TypeAlias = npt.NDArray[np.float64]
