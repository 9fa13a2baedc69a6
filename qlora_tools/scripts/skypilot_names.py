"""What SkyPilot calls the GPUs of our catalogue."""

from ..models.gpus import Gpu

# Where it is not our name without spaces. From SkyPilot's catalogue v7, and its list for RunPod.
_NAMES = {
    "A100 40GB": "A100",
    "A100 80GB": "A100-80GB",
    "GH200 96GB": "GH200",
    "H100 NVL": "H100-NVL",
    "H100 PCIe": "H100",
    "H100 SXM": "H100",
    "RTX 3060 12GB": "RTX3060",
    "RTX 3080 10GB": "RTX3080",
    "RTX 4000 Ada": "RTX4000-Ada",
    "RTX 4080 Super": "RTX4080SUPER",
    "RTX 5000 Ada": "RTX5000-Ada",
    "RTX 6000 Ada": "RTX6000-Ada",
    "RTX PRO 6000 Blackwell": "RTXPRO6000-WK",
    "RTX PRO 6000 Blackwell Server": "RTXPRO6000",
    "V100 16GB": "V100",
    "V100 32GB": "V100-32GB",
}


def skypilot_name(gpu: Gpu) -> str:
    """The accelerator to ask SkyPilot for; what no cloud offers is refused by SkyPilot when it is launched."""
    return _NAMES.get(gpu.name, gpu.name.replace(" ", ""))
