"""ResNet-18 for small pictures: timm's, with a stem that keeps their few pixels.

timm's own stem, a 7x7 convolution of stride 2 and a pooling, leaves 8 x 8 values of a picture of 32 x 32 pixels, and the last
blocks one. Here it is one 3x3 convolution, as ResNets are trained on CIFAR-10 (arXiv:1512.03385, 4.2). Registered with timm:
`model: resnet18_small` in a parameter file is trained, swept and exported as any other network is.
"""

from typing import Any

from timm.models import register_model
from timm.models.resnet import ResNet, resnet18
from torch import nn

MAP_SIDE = 32  # values a side after the stem, as timm's own has 56 of 224 pixels


def resnet18_small(pretrained: bool = False, stem_stride: int = 1, **model_args: Any) -> ResNet:
    """ResNet-18 whose stem is a 3x3 convolution of `stem_stride`: 1 for pictures of 32 x 32 pixels, 2 for 64 x 64.

    Evaluated on whole pictures of that size, unless the parameters' spec says otherwise. ValueError for a `stem_stride` that is
    no stride, and if `pretrained`: nobody publishes weights of it.
    """
    if pretrained:
        raise ValueError("resnet18_small has no weights on timm's hub")
    if isinstance(stem_stride, bool) or not isinstance(stem_stride, int) or stem_stride < 1:
        raise ValueError(f"stem_stride is {stem_stride!r}, expected 1 (for pictures of 32 x 32 pixels), 2 (for 64 x 64) or more")
    network: ResNet = resnet18(**model_args)
    network.conv1 = nn.Conv2d(network.in_chans, 64, kernel_size=3, stride=stem_stride, padding=1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")  # as timm does
    network.maxpool = nn.Identity()
    side = MAP_SIDE * stem_stride
    network.pretrained_cfg = {**network.pretrained_cfg, "input_size": (3, side, side), "crop_pct": 1.0}
    return network


register_model(resnet18_small)
