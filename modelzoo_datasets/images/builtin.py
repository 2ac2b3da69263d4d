"""The image datasets of the published zoos (2209.14764), and one that needs no download."""

from functools import partial

from .binary_formats import read_cifar10, read_cifar100, read_stl10
from .embedded import read_fashion_mnist_5k
from .registry import ImageDataset, add_images
from .tiny_imagenet import read_tiny_imagenet
from .torchvision_formats import read_fashion_mnist, read_mnist, read_svhn, read_usps
from .transforms import crop_gray, resize

# Mean and standard deviation per channel.
_MNIST = ((0.1307,), (0.3081,))
_GRAY = ((0.5,), (0.5,))
_COLOR = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
# Mean and standard deviation of the ResNet zoos.
_CIFAR10 = ((125.3 / 255, 123.0 / 255, 113.9 / 255), (63.0 / 255, 62.1 / 255, 66.7 / 255))
_CIFAR100 = ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

_28, _32 = partial(resize, size=28), partial(resize, size=32)

for _dataset in (
    ImageDataset("mnist", read_mnist, (50_000, 10_000, 10_000), *_MNIST),
    ImageDataset("fashion-mnist", read_fashion_mnist, (50_000, 10_000, 10_000), *_GRAY),
    ImageDataset("fashion-mnist-5k", read_fashion_mnist_5k, (4_200, 800, 1_000), *_GRAY),
    # As in the Small CNN Zoo (2002.11448), whose network averages the channels of color images.
    ImageDataset("mnist-centred", read_mnist, (50_000, 10_000, 10_000), *_GRAY),
    ImageDataset("svhn-32", read_svhn, (60_000, 13_257, 26_032), *_COLOR, size=(32, 32)),
    ImageDataset("svhn", read_svhn, (60_000, 13_257, 26_032), *_GRAY, prepare=partial(crop_gray, size=28)),
    ImageDataset("usps", read_usps, (6_000, 1_291, 2_007), *_MNIST, prepare=_28),
    ImageDataset("cifar10-28", read_cifar10, (42_000, 8_000, 10_000), *_COLOR, prepare=_28),
    ImageDataset("cifar10", read_cifar10, (42_000, 8_000, 10_000), *_COLOR, size=(32, 32)),
    ImageDataset("cifar10-40k", read_cifar10, (40_000, 10_000, 10_000), *_CIFAR10, size=(32, 32)),
    ImageDataset("cifar100", read_cifar100, (40_000, 10_000, 10_000), *_CIFAR100, classes=100, size=(32, 32)),
    ImageDataset("stl10-28", read_stl10, (4_200, 800, 8_000), *_COLOR, prepare=_28),
    ImageDataset("stl10", read_stl10, (4_200, 800, 8_000), *_COLOR, size=(32, 32), prepare=_32),
    ImageDataset("tiny-imagenet", read_tiny_imagenet, (100_000, 0, 10_000), *_IMAGENET, classes=200, size=(64, 64)),
):
    add_images(_dataset)
