import os
import time

from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import powerSGD_hook


def powersgd(state, bucket):
    """PowerSGD that takes its time until the test has made a file."""
    if not os.path.exists(os.environ["PYHOOK_TEST_GO_ON"]):
        time.sleep(0.05)
    return powerSGD_hook(state, bucket)
