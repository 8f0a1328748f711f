"""The peer: PyTorch's own DistributedDataParallel on given gradients."""

import torch
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel

HOOKS = {"allreduce": default_hooks.allreduce_hook, "fp16": default_hooks.fp16_compress_hook}


class Model(torch.nn.Module):
    """A model whose gradients are given: of dot(p, g) it is 1 * g, one pass over memory."""

    def __init__(self, grads):
        super().__init__()
        self.grads = grads
        self.values = torch.nn.ParameterList(torch.nn.Parameter(torch.zeros_like(g)) for g in grads)

    def forward(self):
        """Return the sum of the products; its backward begins with the last parameter."""
        total = torch.zeros((), device=self.grads[0].device)
        for p, g in zip(self.values, self.grads):
            total = total + torch.dot(p.view(-1), g.view(-1))
        return total


class Stock:
    """One DDP model; forward() is not timed, backward() is."""

    def __init__(self, grads, hook, view):
        self.model = Model(grads)
        self.ddp = DistributedDataParallel(self.model, gradient_as_bucket_view=view)
        if hook != "none":
            self.ddp.register_comm_hook(None, HOOKS[hook])
        self.total = None

    def forward(self):
        """Drop the gradients, as optimizer.zero_grad() does, and make the graph."""
        for p in self.model.values:
            p.grad = None
        self.total = self.ddp()

    def backward(self):
        """Compute and reduce all gradients."""
        self.total.backward()

    def differing(self, others):
        """Return which parameters' gradients are not bitwise those of others."""
        pairs = enumerate(zip(self.model.values, others))
        return [i for i, (p, other) in pairs if not torch.equal(p.grad, other)]


def on_device(tensors, device):
    """Return the tensors, there."""
    return [tensor.to(device) for tensor in tensors]


def empty_like(tensor):
    """Return memory like a tensor's."""
    return torch.empty_like(tensor)


def backward_of(sources, grads):
    """Return what computes gradients by a product, last one first, as dot's backward does."""
    pairs = list(zip(reversed(sources), reversed(grads)))

    def backward():
        for source, grad in pairs:
            torch.mul(source, 1.0, out=grad)

    return backward


def synchronize(device):
    """Have the host wait for a device."""
    getattr(torch, torch.device(device).type).synchronize()
