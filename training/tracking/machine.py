"""Load of this machine, by MLflow's names."""

import contextlib
import os

import psutil
import torch


def system_metrics() -> dict[str, float]:
    """CPU since the last call, memory, disk below the current folder, our GPU; each `system/...`."""
    memory, disk = psutil.virtual_memory(), psutil.disk_usage(os.curdir)
    values = {
        "cpu_utilization_percentage": psutil.cpu_percent(),
        "system_memory_usage_megabytes": memory.used / 1e6,
        "system_memory_usage_percentage": memory.percent,
        "disk_usage_percentage": disk.percent,
        "disk_available_megabytes": disk.free / 1e6,
    }
    if torch.cuda.is_available():
        gpu = torch.cuda.current_device()
        with contextlib.suppress(Exception):  # a driver fails in many types, and none may end a run
            free, total = torch.cuda.mem_get_info(gpu)
            values[f"gpu_{gpu}_memory_usage_megabytes"] = (total - free) / 1e6
            values[f"gpu_{gpu}_memory_usage_percentage"] = 100 * (1 - free / total)
            values[f"gpu_{gpu}_utilization_percentage"] = torch.cuda.utilization(gpu)  # these two need nvidia-ml-py
            values[f"gpu_{gpu}_power_usage_watts"] = torch.cuda.power_draw(gpu) / 1000
    return {f"system/{name}": float(value) for name, value in values.items()}
