"""A device to test on where there is no GPU: it computes on the CPU, and is as strict as a GPU about what is where.

Its tensors meet no tensor that is elsewhere, and give their values away only to who asks for them: both are what code for a GPU
gets wrong without that a CPU shows it. What crosses over is counted, and refused where a graph would be captured.
"""

import contextlib
import threading
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

# Before the process first goes back through a network: autograd has one thread for each device that it knows by then, and a
# process that has them cannot fork one that trains.
HERE = hasattr(backend_registration, "_setup_privateuseone_for_python_backend")
if HERE:

    class Module(backend_registration._DummyBackendModule):
        """What is asked for as ``torch.strict``."""

        def get_amp_supported_dtype(self):
            return [torch.bfloat16]

    backend_registration._setup_privateuseone_for_python_backend("strict", Module())

aten = torch.ops.aten
#: What waits for the device because the shape or the type of its result depends on values.
READS = {
    aten._local_scalar_dense.default, aten.bincount.default, aten.equal.default, aten.masked_select.default,
    aten.nonzero.default, aten._unique2.default,
}  # fmt: skip


@dataclass
class Traffic:
    """How often tensors went to the device, and values came back from it; ``sealed``: none may."""

    sent: int = 0
    read: int = 0
    sealed: bool = False

    def goes(self, func, *, back):
        assert not self.sealed, f"{func} crosses between host and device where a graph is captured"
        if back:
            self.read += 1
        else:
            self.sent += 1

    def seal(self, work):
        """The same work, in which nothing may cross over."""

        def sealed():
            self.sealed = True
            try:
                work()
            finally:
                self.sealed = False

        return sealed


class There(Tensor):
    """A tensor on the device; ``here`` is the one that computes."""

    @staticmethod
    def __new__(cls, here):
        with torch.inference_mode(False):  # a view of one that was made under it would be refused
            return torch.Tensor._make_wrapper_subclass(
                cls, here.shape, here.stride(), here.storage_offset(), dtype=here.dtype, device=device()
            )

    def __init__(self, here):
        self.here = here

    def __tensor_flatten__(self):  # modules then swap a parameter for another one, instead of its data alone
        return ["here"], None

    @staticmethod
    def __tensor_unflatten__(inner, context, shape, strides):
        return There(inner["here"])

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f"{func} of a tensor on the strict device where there is no such device")


class Strict(TorchDispatchMode):
    def __init__(self, traffic):
        super().__init__()
        self._traffic = traffic

    def __enter__(self):
        # Else torch.tensor(values, device=...) moves them where no mode is asked.
        self._lifted = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        return super().__enter__()

    def __exit__(self, *error):
        torch._C._set_only_lift_cpu_tensors(self._lifted)
        return super().__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        # In inference mode nothing is taken apart before it comes here.
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        there = [tensor for tensor in tensors if isinstance(tensor, There)]
        asked = kwargs.get("device")
        onto = bool(there) if asked is None else torch.device(asked).type == device().type
        if not there and not onto:
            return func(*args, **kwargs)
        assert all(_form(tensor) == _form(tensor.here) for tensor in there), "this device is wrong about a tensor"
        here_args, here_kwargs = tree_map(_here, (args, kwargs))
        if asked is not None:
            here_kwargs["device"] = torch.device("cpu")

        if func in (aten._to_copy.default, aten.copy_.default):
            source = args[0]
            if func is aten.copy_.default:
                onto, source = isinstance(args[0], There), args[1]
            if onto != isinstance(source, There):
                self._traffic.goes(func, back=not onto)
        elif len(there) != len(tensors):
            strange = [tensor for tensor in tensors if not isinstance(tensor, There)]
            assert all(tensor.dim() == 0 for tensor in strange), f"{func} of tensors on two devices"
            assert not self._traffic.sealed, f"{func} takes a number of the host into a graph for good"
        elif func in READS or (func is aten.index.Tensor and any(_is_mask(index) for index in args[1])):
            self._traffic.goes(func, back=True)

        result = func(*here_args, **here_kwargs)
        if not onto:
            return result
        same = {id(tensor.here): tensor for tensor in there}  # what works in place returns what it was given

        def placed(value):
            if not isinstance(value, Tensor):
                return value
            return same[id(value)] if id(value) in same else There(value)

        return tree_map(placed, result)


def _here(value):
    return value.here if isinstance(value, There) else value


def _form(tensor):
    return tensor.dtype, tensor.shape, tensor.stride()


def _is_mask(index):
    return index is not None and index.dtype == torch.bool


def device():
    return torch.device("strict", 0)


@contextlib.contextmanager
def strict_device():
    """Within, in all threads that are started, there is the device; yields its traffic. Skips where this torch has no way to
    have one."""
    if not HERE:
        pytest.skip("this torch cannot have a device that is written in Python")
    traffic, alone = Traffic(), threading.Thread.run

    def with_it(thread):
        with Strict(traffic):
            alone(thread)

    with pytest.MonkeyPatch.context() as patch, Strict(traffic):
        patch.setattr(threading.Thread, "run", with_it)
        yield traffic
