"""What a machine does with models of the Hub, in processes of its own: see `hub_commands`; nothing is imported here."""


def loads_sample(source: str) -> None:
    """The two lines that load a sample; prints what came."""
    from hyperrep import SampledModel

    network = SampledModel.from_pretrained(source)
    print(type(network).__name__, {name: float(p.sum()) for name, p in sorted(network.state_dict().items())})


def loads_table(source: str, config: str) -> None:
    """The table, with nothing of ours; prints names and the sum of all weights."""
    import sys

    from datasets import load_dataset

    rows = load_dataset(source, config, split="train")
    print([*rows["sample"]], sum(map(sum, rows["weights"])), [n for n in sys.modules if n.startswith("hyperrep.")])


def samples_from(representation: str, out: str) -> None:
    """The command that samples from a hyper-representation of the Hub."""
    import sys

    sys.argv = ["modelzoo-hyperrep", "sample", "--hyperrep", representation, "-n", "2", "--out", out]
    from hyperrep.cli.hyperrep_command import main

    main()
