"""What a program runs on, as people compare machines: for config.json, the report of a run and benchmarks."""

import os
import platform
import re

import tensorflow as tf


def cpu():
    """The processor's own name; on systems that do not tell it, the architecture."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as f:
            named = re.search(r"^model name\s*:\s*(.+)$", f.read(), re.MULTILINE)
    except OSError:  # not Linux
        named = None
    return named[1].strip() if named else platform.processor() or platform.machine()


def cores():
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def of_benchmark():
    """What the numbers of a benchmark hang on, beside the code."""
    return {"cpu": cpu(), "cores": cores(), "python": platform.python_version(), "tensorflow": tf.__version__}


def _device(device):
    """A physical device: a GPU's own name, else `CPU:0` and the like."""
    if device.device_type == "GPU":
        return tf.config.experimental.get_device_details(device).get("device_name", "GPU")
    return device.name.removeprefix("/physical_device:")


def describe():
    """{"cpu": name, "cores": that this process may use, "memory_gb": of the machine, "devices": names}."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": cpu(),
        "cores": cores(),
        "memory_gb": round(pages / 1e9, 1),
        "devices": [_device(d) for d in tf.config.list_physical_devices()],
    }
