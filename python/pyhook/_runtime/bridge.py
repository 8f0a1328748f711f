"""What the Go side calls, in one namespace: it looks these names up once and keeps them."""

# ruff: noqa: F401
from .._device.memory import DeviceMemory
from .._device.on_stream import on_stream
from .._loading.load import build_state, check_hook, load_hook
from .._loading.names import hook_name
from .._meeting.dtype_probe import probe_allreduce_dtypes
from .._meeting.join import describe_group, destroy, init_process_group, stop_joining
from ..capture import capture, hook_and_state
from .bucket import Bucket, BucketMethods
from .bucket_layout import BucketLayout
from .chain import Chain
from .complex_gradients import check_complex, complex_refusal
from .contract import require_future
from .environment import environment
from .nccl_futures import uses_forms
from .order import hook_order
from .parameters import Parameters
from .patches import install
from .result import parse_value
from .sparse import run_sparse_hook, sparse_layout, sparse_parts
from .wrap import wrapped

install()
