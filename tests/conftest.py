"""What the tests share: one tiny zoo and its dataset, made once per session by the real code; and no network.

    tiny_recipe   Path of a recipe file with two configs: `seed`, 20 models (14 train, 3 validation, 3 test) of
                  tanh, adamw, no dropout, 2 epochs; `hyp`, 8 models (4, 2, 2) of activation x dropout, 1 epoch
    tiny_zoo      Path of the zoo folder of its config `seed`, complete
    tiny_hyp_zoo  Path of the zoo folder of its config `hyp`, complete
    tiny_dataset  Path of the dataset folder built from both
    resnet_dataset  Path of a dataset of two ResNet-18, 45 MB a state, with its zoo and images beside it; copy it by
                  `resnet_zoos.linked`
    images        Images of fashion-mnist-5k
    few_images    the same cut to 250 training, 70 validation and 60 test images, for tests that train by hand
    engine        TorchEngine with one process, so everything runs in the test's own
    dataset       a copy of tiny_dataset, of the test's own
    hub           HubServer on loopback: ann writes to `ann` and `zoos`, bob to `bob` alone
    ann, bob, anyone  Clients of it with their tokens, and with none

All of them are shared: a test that changes a folder copies it first (`shutil.copytree(tiny_zoo, tmp_path / "zoo")`).
"""

import dataclasses
import ipaddress
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.hub_commands import Client
from helpers.hub_server import HubServer
from helpers.hub_state import User
from helpers.processes import start_server
from helpers.resnet_zoos import make_resnet_dataset

from modelzoo_datasets import build_dataset, generate_zoo, read_recipe
from modelzoo_datasets.architectures import architecture_names
from modelzoo_datasets.engines.torch_engine import TorchEngine
from modelzoo_datasets.images import Images, Split, image_dataset_names, load_images

# Tests change copies of the registries, so everything that is built in must be in them before.
architecture_names()
image_dataset_names()

if "PYTEST_XDIST_WORKER" in os.environ:
    start_server()  # it imports what commands need while the tests begin

TINY_RECIPE = """\
images = "fashion-mnist-5k"
architecture = "cnn-s"
seed = 1  # with it the 8 models of `hyp` are in all three splits

[defaults]
batch_size = 256
weight_decay = 1e-3

[configs.seed]
epochs = 2
seeds = "1-20"
activation = "tanh"
init = "kaiming_uniform"
optimizer = "adamw"
lr = 1e-2
dropout = 0.0

[configs.hyp]
epochs = 1
seeds = { random = 2, below = 1_000_000 }
activation = ["tanh", "relu"]
init = "kaiming_uniform"
optimizer = "adam"
lr = 1e-2
dropout = [0.0, 0.2]
"""


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """Fail whatever test speaks to anything but this machine; servers on loopback stay reachable."""
    connect, getaddrinfo = socket.socket.connect, socket.getaddrinfo

    def guarded_connect(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and not _is_loopback(address[0]):
            pytest.fail(f"a test connects to {address}")
        connect(self, address)

    def guarded_getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        if not _is_loopback(host):
            pytest.fail(f"a test looks up {host}")
        return getaddrinfo(host, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded_connect)
        patch.setattr(socket, "getaddrinfo", guarded_getaddrinfo)
        yield


def _is_loopback(host: Any) -> bool:
    if host in ("localhost", "", None):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@pytest.fixture(scope="session")
def engine() -> TorchEngine:
    """The reference engine, in this process."""
    return TorchEngine(num_workers=1)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    """The images that ship with the package."""
    return load_images("fashion-mnist-5k", tmp_path_factory.mktemp("no-images-here"))


@pytest.fixture(scope="session")
def few_images(images: Images) -> Images:
    """So few images that an epoch takes milliseconds; 250 is no multiple of any sensible batch size."""
    sizes = {"train": 250, "validation": 70, "test": 60}
    splits = {name: Split(images.splits[name].pixels[:n], images.splits[name].labels[:n]) for name, n in sizes.items()}
    return dataclasses.replace(images, splits=splits)


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe file of two configs, quick to train."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(TINY_RECIPE)
    return path


def _generated(recipe: Path, config: str, engine: TorchEngine, factory: Any) -> Path:
    folder: Path = factory.mktemp("zoos") / config
    chosen = read_recipe(str(recipe))
    generate_zoo(chosen, folder, config=config, engine=engine, images_root=folder.parent / "images")
    return folder


@pytest.fixture(scope="session")
def tiny_zoo(tiny_recipe: Path, engine: TorchEngine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zoo folder of config `seed`: 20 models, epochs 0 to 2."""
    return _generated(tiny_recipe, "seed", engine, tmp_path_factory)


@pytest.fixture(scope="session")
def tiny_hyp_zoo(tiny_recipe: Path, engine: TorchEngine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zoo folder of config `hyp`: 8 models, epochs 0 and 1, activations and dropout mixed."""
    return _generated(tiny_recipe, "hyp", engine, tmp_path_factory)


@pytest.fixture(scope="session")
def tiny_dataset(tiny_zoo: Path, tiny_hyp_zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset folder of both zoos."""
    out = tmp_path_factory.mktemp("datasets") / "tiny"
    build_dataset([tiny_zoo, tiny_hyp_zoo], out)
    return out


@pytest.fixture(scope="session")
def resnet_dataset(engine: TorchEngine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset folder of two ResNet-18 trained by the published recipe, one epoch of a few images."""
    return make_resnet_dataset(tmp_path_factory.mktemp("resnets"), engine)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    """A Hub with two users: ann writes to `ann` and `zoos`, bob to `bob` alone."""
    with HubServer(tmp_path / "hub").running() as server:
        server.users["hf_writer"] = User("ann", writes=("ann", "zoos"))
        server.users["hf_reader"] = User("bob", writes=("bob",))
        yield server


@pytest.fixture
def ann(hub: HubServer, tmp_path: Path) -> Client:
    return Client(tmp_path / "ann", hub.url, "hf_writer")


@pytest.fixture
def bob(hub: HubServer, tmp_path: Path) -> Client:
    return Client(tmp_path / "bob", hub.url, "hf_reader")


@pytest.fixture
def anyone(hub: HubServer, tmp_path: Path) -> Client:
    return Client(tmp_path / "anyone", hub.url)


@pytest.fixture
def dataset(tiny_dataset: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(tiny_dataset, tmp_path / "dataset"))
