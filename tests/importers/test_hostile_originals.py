"""Hostile originals, made byte by byte: an import ends soon, in one line, and takes no more memory than is stated."""

import bz2
import gzip
import io
import json
import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.memory_limits import run_limited, size_of
from helpers.originals import trial_name
from helpers.untrained_originals import checkpoint, imported, write_zoo

from modelzoo_datasets.errors import FormatError
from modelzoo_datasets.importers import ray_tune
from modelzoo_datasets.importers.compression import gunzip
from modelzoo_datasets.zoo import memory_limit

Maker = Callable[[Path], Path]


def tar_header(name: bytes, size: bytes, kind: bytes = b"0") -> bytes:
    """A header of 512 bytes with any field of the size, which `tarfile` writes for no number below 0."""
    fields = [
        name.ljust(100, b"\0"),
        b"0000644\0",
        b"0000000\0",
        b"0000000\0",
        size.ljust(12, b"\0"),
        b"0" * 11 + b"\0",
    ]
    head = b"".join(fields) + b" " * 8 + kind + bytes(100) + b"ustar\00000" + bytes(247)
    checksum = b"%06o\0 " % sum(head)
    return head[:148] + checksum + head[156:]


def negative(number: int) -> bytes:
    """A number in base 256, as GNU tar writes those below 0."""
    return (256**12 - number).to_bytes(12, "big")


def plain(number: int) -> bytes:
    return b"%011o\0" % number


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


def pax(records: bytes) -> bytes:
    return tar_header(b"pax", plain(len(records)), b"x") + padded(records)


def written(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


FIRST = tar_header(b"zoo/readme", plain(1)) + padded(b"x")
TARS = {
    "negative size": FIRST + tar_header(b"a", negative(512)),
    "negative size of the first": tar_header(b"a", negative(512)),
    "negative extended header": FIRST + tar_header(b"pax", negative(1024), b"x"),
    "negative long name": FIRST + tar_header(b"name", negative(512), b"L"),
    "negative size in an extended header": FIRST + pax(b"13 size=-1024\n") + tar_header(b"a", plain(0)),
    "extended header of 8 GB": FIRST + tar_header(b"pax", plain(8**11 - 1), b"x"),
    "long name of 2^90": FIRST + tar_header(b"name", b"\x80" + (2**87).to_bytes(11, "big"), b"L"),
    "size of 10^30": FIRST + pax(b"40 size=" + b"1" + b"0" * 30 + b"\n") + tar_header(b"a", plain(0)),
    "size of 9,000 digits": FIRST + pax(b"9011 size=" + b"9" * 9_000 + b"\n") + tar_header(b"a", plain(0)),
    "length of 9,000 digits": FIRST + pax(b"9" * 9_000 + b" size=1\n") + tar_header(b"a", plain(0)),
    "many global values": FIRST
    + b"".join(
        tar_header(b"pax", plain(16 * 1000), b"g")
        + padded(b"".join(b"16 k%08d=v\n" % (1000 * i + j) for j in range(1000)))
        for i in range(20)
    )
    + 2000 * tar_header(b"a", plain(0)),
    "sparse without end": FIRST + tar_header(b"a", plain(10), b"S")[:482] + b"\x01" + bytes(29),
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("case", TARS)
def test_headers_of_a_tar(case: str, packed: bool, tmp_path: Path) -> None:
    content = gzip.compress(TARS[case]) if packed else TARS[case]
    path = written(tmp_path / "zoo.tar", content)
    end = run_limited(["modelzoo-import", path, "--format", "model-zoos", "--out", tmp_path / "out"], path, timeout=30)
    assert end.status == 2
    (line,) = [line for line in end.lines if not line.startswith("decompressing")]
    assert "zoo holds no trial folders" in line or "is no folder, zip or tar archive" in line
    assert end.peak < 300_000_000


def zip_of(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method, compresslevel=9) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def edit_sizes(path: Path, name: str, size: int) -> None:
    """Let a zip say another size of a decompressed member, in its header and in the list of members."""
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo(name).header_offset
        listed = content.index(name.encode(), archive.start_dir) - 46
    content[start + 22 : start + 26] = content[listed + 24 : listed + 28] = size.to_bytes(4, "little")
    path.write_bytes(content)


ZEROS = 300_000_000  # bytes: 300 kB deflated


def trial_members(checkpoint_content: bytes) -> dict[str, bytes]:
    trial = "zoo/NN_tune_trainable_0_seed=1"
    params = {"seed": 1, "model::type": "CNN", "model::channels_in": 1}
    return {
        f"{trial}/params.json": json.dumps(params).encode(),
        f"{trial}/result.json": b'{"training_iteration": 1}\n',
        f"{trial}/checkpoint_000001/checkpoints": checkpoint_content,
    }


def deflated_checkpoint(size: int, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A checkpoint of torch, repacked by another method, with one storage of zeros."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method, compresslevel=9) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}q\x00.")
        with archive.open("archive/data/0", "w", force_zip64=True) as member:
            for _ in range(0, size, 10_000_000):
                member.write(bytes(10_000_000))
        archive.writestr("archive/version", b"3\n")
    return buffer.getvalue()


def pickle_of(*parts: bytes) -> bytes:
    """A pickle of protocol 2 with these opcodes."""
    return b"\x80\x02" + b"".join(parts) + b"."


def test_members_of_a_zip_that_lie_about_their_size(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "zoo.zip", trial_members(bytes(ZEROS)))
    edit_sizes(path, "zoo/NN_tune_trainable_0_seed=1/checkpoint_000001/checkpoints", 100)
    assert_refused(path, tmp_path, "no checkpoint of zoo can be read", peak=200_000_000)


@pytest.mark.parametrize("name", ["checkpoint", "params", "result"])
def test_members_of_a_zip_that_are_large(name: str, tmp_path: Path) -> None:
    members = trial_members(b"")
    (key,) = [key for key in members if name in key]
    if name != "checkpoint":
        members[key] = b"[" * ZEROS
    else:
        members[key] = bytes(ZEROS)
    path = zip_of(tmp_path / "zoo.zip", members)
    assert_refused(path, tmp_path, "", peak=300_000_000)


def test_a_member_that_only_python_would_decompress_without_limit(tmp_path: Path) -> None:
    path = tmp_path / "zoo.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in trial_members(bz2.compress(bytes(10))).items():
            archive.writestr(name, content, zipfile.ZIP_BZIP2 if "checkpoints" in name else zipfile.ZIP_DEFLATED)
    assert_refused(path, tmp_path, "no checkpoint of zoo can be read: each of the first 1 is damaged in its archive")


CHECKPOINTS: dict[str, Callable[[], bytes]] = {
    "deflated zeros": lambda: deflated_checkpoint(400_000_000),
    "bzip2": lambda: deflated_checkpoint(100_000_000, method=zipfile.ZIP_BZIP2),
    "bytearray(10**11)": lambda: pickle_of(
        b"cbuiltins\nbytearray\n", b"\x8a\x05" + (10**11).to_bytes(5, "little"), b"\x85R"
    ),
    "nested lists": lambda: pickle_of(b"]" * 100_000, b"a" * 99_999),
    "legacy storage of 4 TB": lambda: legacy_checkpoint(10**12),
}


def legacy_checkpoint(numbers: int) -> bytes:
    """A file of an old torch whose pickle says that a storage has so many numbers."""
    magic = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
    version = b"\x80\x02M\xe9\x03."
    system = b"\x80\x02}q\x00(X\x10\x00\x00\x00protocol_versionq\x01M\xe9\x03X\r\x00\x00\x00little_endianq\x02\x88u."
    count = b"\x8a\x06" + numbers.to_bytes(6, "little")
    storage = (
        b"(X\x07\x00\x00\x00storageq\x01ctorch\nFloatStorage\nq\x02X\x01\x00\x00\x000q\x03X\x03\x00\x00\x00cpuq\x04"
        + count
        + b"Ntq\x05Q"
    )
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\nq\x06(" + storage + b"K\x00" + count + b"\x85K\x01\x85\x89"
    tensor += b"ccollections\nOrderedDict\nq\x07)Rtq\x08R"
    return (
        magic
        + version
        + system
        + pickle_of(b"}q\x00X\x01\x00\x00\x00aq\x09", tensor, b"s")
        + pickle_of(b"]q\x00U\x010a")
    )


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_the_checkpoint_that_is_looked_into_first(case: str, tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "tune_zoo_uniform", models=1)
    for epoch in range(3):
        checkpoint(zoo, 1, epoch).write_bytes(CHECKPOINTS[case]())
    assert_refused(
        zoo, tmp_path, "no checkpoint of tune_zoo_uniform can be read: each of the first 3 ", peak=300_000_000
    )


def test_a_checkpoint_with_a_hole_of_a_terabyte(tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "tune_zoo_uniform", models=1)
    for epoch in range(3):
        os.truncate(checkpoint(zoo, 1, epoch), 10**12)
    assert_refused(zoo, tmp_path, "is larger than any of a registered architecture", peak=200_000_000)


def test_results_with_more_rows_than_such_a_source_can_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zoo = write_zoo(tmp_path / "tune_zoo_uniform", models=2)  # three rows each
    monkeypatch.setattr(ray_tune, "_BYTES_PER_ROW", 200_000_000)
    with pytest.raises(FormatError, match="^tune_zoo_uniform of .* would take 1,2.* more than the limit of"):
        imported(zoo, tmp_path / "out")


def test_deep_json(tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "tune_zoo_uniform", models=1)
    for name in ("params.json", "result.json"):
        (zoo / trial_name(1, 1) / name).write_text("[" * 900_000)
    assert_refused(zoo, tmp_path, "params.json is missing or damaged")


def state_folder(folder: Path, table: str, content: bytes) -> Path:
    folder.mkdir()
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (folder / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    (folder / table).write_bytes(content)
    return folder


def parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", row_group_size=1 << 30)
    return buffer.getvalue()


def repeated(text: str, count: int) -> pa.Array:
    """A column of one text, stored once."""
    return pa.DictionaryArray.from_arrays(pa.nulls(count, pa.int32()).fill_null(0), pa.array([text]))


TABLES: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "a row of 10 million columns": ("t.csv", lambda: b"file" + b"," * 10_000_000 + b"\n", "about 10,000,001 columns"),
    "10 million columns without names": (
        *("t.csv", lambda: b"file\n" + b"1," * 10_000_000 + b"\n"),
        "about 10,000,001 columns",
    ),
    "short rows of many columns": (
        *("t.csv", lambda: b"file" + b",x" * 9_999 + b"\n" + b"1\n" * 1_000_000),
        "more than the limit of",
    ),
    "a repeated text": (
        *("t.parquet", lambda: parquet(pa.table({"file": repeated("x" * 1_000_000, 100_000)}))),
        "more than the limit of",
    ),
    "fifty million rows": (
        *("t.parquet", lambda: parquet(pa.table({"epoch": pa.nulls(50_000_000, pa.int64())}))),
        "more than the limit of",
    ),
}


@pytest.mark.parametrize("case", TABLES)
def test_tables(case: str, tmp_path: Path) -> None:
    name, make, expected = TABLES[case]
    folder = state_folder(tmp_path / "states", name, make())
    assert_refused(folder, tmp_path, expected, format="safetensors")


def test_a_header_with_a_tensor_of_a_trillion_numbers(tmp_path: Path) -> None:
    folder = state_folder(tmp_path / "states", "t.csv", b"file\na.safetensors\n")
    for shape, end in (([10**12], 4), ([10**12], 4 * 10**12), ([-1], 4), ([10**6, 10**6], 10**15)):
        header = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()
        (folder / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
        assert_refused(folder, tmp_path, "a.safetensors of states", format="safetensors", peak=200_000_000)


def test_a_compressed_table_that_becomes_too_large(tmp_path: Path) -> None:
    folder = tmp_path / "zoo"
    written(folder / "weights.npy", b"")
    written(folder / "layout.csv", b"varname,shape,start_idx,end_idx\n")
    written(folder / "metrics.csv.gz", gzip.compress(b"modeldir,step\n" + b"1" * 300_000_000))
    assert_refused(folder, tmp_path, "metrics.csv.gz of zoo decompresses to more than", format="small-cnn-zoo")


def test_an_archive_that_decompresses_to_too_much(tmp_path: Path) -> None:
    path = written(tmp_path / "zoo.tar.gz", gzip.compress(FIRST + bytes(100_000_000)))
    assert_refused(path, tmp_path, "the limit of 200 times its size", peak=100_000_000)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["zoo.tar.gz"]


def test_an_xz_file_that_needs_a_dictionary_of_gigabytes(tmp_path: Path) -> None:
    content = bytearray(lzma.compress(FIRST, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 20}]))
    content[content.index(b"\x21\x01") + 2] = 40  # the filter LZMA2, one byte of properties: 4 GB
    stop = 12 + 4 * (content[12] + 1)
    content[stop - 4 : stop] = zlib.crc32(bytes(content[12 : stop - 4])).to_bytes(4, "little")
    path = written(tmp_path / "zoo.tar.xz", bytes(content))
    assert_refused(path, tmp_path, "zoo.tar.xz is no folder, zip or tar archive that can be read", peak=100_000_000)


def test_tables_of_the_real_sizes_are_within_the_limits() -> None:
    text = b"model,step,accuracy\n" + b"".join(b"model-%d,%d,0.5%d\n" % (i, i % 9, i * 7919) for i in range(300_000))
    assert gunzip(gzip.compress(text), "metrics.csv.gz") == text


def assert_refused(
    source: Path,
    tmp_path: Path,
    expected: str,
    *,
    format: str = "model-zoos",
    peak: int | None = None,
    timeout: float = 60,
) -> None:
    """Import, and expect one line and status 2 within the time and the memory."""
    words = ["modelzoo-import", source, "--format", format, "--out", tmp_path / "out", "--images", "fashion-mnist-5k"]
    end = run_limited(words, source, timeout)
    lines = [line for line in end.lines if not line.startswith(("decompressing", "skipped"))]
    assert end.status == 2, end
    assert len(lines) == 1, end
    assert expected in lines[0], end
    assert end.peak < (peak or memory_limit(size_of(source)))
    assert not (tmp_path / "out").exists()
