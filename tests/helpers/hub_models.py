"""Functions that use models of the Hub, for the processes of `hub_commands`; they import all they need themselves."""


def loads_sample(source: str) -> None:
    """Load a sample as its card does, and print it."""
    from hyperrep import load_sample

    network = load_sample(source)
    print(type(network).__name__, {name: float(p.sum()) for name, p in sorted(network.state_dict().items())})


def loads_table(source: str, config: str) -> None:
    """Load the table with `datasets` alone, and print the names and the sum of all weights."""
    import sys

    from datasets import load_dataset

    rows = load_dataset(source, config, split="train")
    print([*rows["sample"]], sum(map(sum, rows["weights"])), [n for n in sys.modules if n.startswith("hyperrep.")])


def samples_from(representation: str, out: str) -> None:
    """Sample from a hyper-representation of the Hub with the command."""
    import sys

    sys.argv = ["modelzoo-hyperrep", "sample", "--hyperrep", representation, "-n", "2", "--out", out]
    from hyperrep.cli.hyperrep_command import main

    main()
