"""The only place that knows transformers: checkpoints behind the `OmniModel` protocol."""

import logging

# transformers imports torchao where it is installed, and that import tells of CUDA kernels for
# formats nobody asked for. It happens with the first module here, so this has to stand before.
for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)
