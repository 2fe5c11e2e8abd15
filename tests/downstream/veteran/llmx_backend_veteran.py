"""A backend as plugins were first written for llmx 0.1. Not to be edited: it must go on working."""

from attrs import field, frozen

from llmx import hookimpl


@frozen(kw_only=True)
class CpuOptions:
    enabled: bool = field(default=False, metadata={"doc": "Lower for CPUs."})


@hookimpl
def options():
    return CpuOptions


@hookimpl
def partitioners(job):
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

    return [XnnpackPartitioner()]


@hookimpl
def runtime():
    return None
