"""An archive must not write outside its folder, overwrite, fill the disk, or pass for whole when it is not."""

from __future__ import annotations

import gzip
import io
import os
import stat
import struct
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evar.datasets import unpack as unpacking
from evar.datasets.unpack import safe_parts, unpack
from evar.errors import EvarError

KINDS = ("zip", "tar", "tar.gz")
GOOD = {"set/a.wav": b"aaaa", "set/sub/b.wav": b"b" * 2000, "README": b"read me"}


def write_zip(path, entries):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            info = name if isinstance(name, zipfile.ZipInfo) else zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)


def write_tar(path, entries, mode="w", **options):
    with tarfile.open(path, mode, **options) as archive:
        for name, content in entries:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def make(folder, kind, entries):
    """An archive of `kind` with (name, content) entries, names exactly as given."""
    path = Path(folder) / f"archive.{kind}"
    entries = list(entries.items()) if isinstance(entries, dict) else entries
    if kind == "zip":
        write_zip(path, entries)
    else:
        write_tar(path, entries, "w:gz" if kind == "tar.gz" else "w")
    return path


def tree(folder):
    """Everything below `folder`: file contents by relative path, None for folders."""
    found = {}
    for path in Path(folder).rglob("*"):
        found[path.relative_to(folder).as_posix()] = path.read_bytes() if path.is_file() else None
    return found


def refused(tmp_path, archive, kind, match):
    """The archive is refused with one line and nothing whatsoever is written."""
    before = tree(tmp_path)
    with pytest.raises(EvarError, match=match) as caught:
        unpack(archive, tmp_path / "out", kind)
    assert str(archive) in str(caught.value)
    assert {name: content for name, content in tree(tmp_path).items() if name != "out"} == before


@pytest.mark.parametrize("kind", KINDS)
def test_good_archive_arrives_whole(tmp_path, kind):
    seen = []
    archive = make(tmp_path, kind, GOOD)
    tops = unpack(archive, tmp_path / "out", kind, lambda done, total: seen.append((done, total)))
    assert tops == {"set": 2, "README": 1}
    assert {name: content for name, content in tree(tmp_path / "out").items() if content is not None} == GOOD
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]


def test_pax_and_gnu_long_names_and_empty_folders(tmp_path):
    for style in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        name = "/".join(["long" * 20] * 4) + f"/ä{style}.wav"
        folder = tarfile.TarInfo("empty")
        folder.type = tarfile.DIRTYPE
        path = tmp_path / f"{style}.tar"
        write_tar(path, [(folder, b""), (name, b"x")], format=style)
        unpack(path, tmp_path / "out", "tar")
        assert (tmp_path / "out" / name).read_bytes() == b"x"
    assert (tmp_path / "out" / "empty").is_dir()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "a/../../evil",
        "a/..",
        "/evil",
        "//evil",
        "C:evil",
        "C:/evil",
        "a/C:evil",
        "..\\evil",
        "a\\b",
        "a\nb",
        "n" * 300,
    ],
)
def test_unsafe_name(tmp_path, kind, name):
    archive = make(tmp_path, kind, [("good.wav", b"x"), (name, b"evil")])
    refused(tmp_path, archive, kind, "has a name that is not safe")


def test_absolute_path_of_this_very_folder(tmp_path):
    archive = make(tmp_path, "tar", [(f"{tmp_path}/evil", b"x")])
    refused(tmp_path, archive, "tar", "not safe")


@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
@pytest.mark.parametrize(
    ("type_", "match"),
    [
        (tarfile.SYMTYPE, "is a link"),
        (tarfile.LNKTYPE, "is a link"),
        (tarfile.CHRTYPE, "is a device"),
        (tarfile.BLKTYPE, "is a device"),
        (tarfile.FIFOTYPE, "is a device or another special file"),
        (b"Z", "is a device or another special file"),
    ],
    ids=["symlink", "hardlink", "character device", "block device", "pipe", "unknown type"],
)
def test_link_or_device_in_a_tar(tmp_path, kind, type_, match):
    info = tarfile.TarInfo("data")
    info.type, info.linkname = type_, "/etc/passwd" if type_ == tarfile.SYMTYPE else "good.wav"
    archive = make(tmp_path, kind, [("good.wav", b"x"), (info, b""), ("data/evil", b"x")])
    refused(tmp_path, archive, kind, match)


@pytest.mark.parametrize(
    ("mode", "match"), [(stat.S_IFLNK, "is a link"), (stat.S_IFCHR, "is a device"), (stat.S_IFIFO, "is a device")]
)
def test_link_or_device_in_a_zip(tmp_path, mode, match):
    info = zipfile.ZipInfo("data")
    info.create_system, info.external_attr = 3, (mode | 0o777) << 16
    archive = make(tmp_path, "zip", [(info, b"/etc"), ("data/evil", b"x")])
    refused(tmp_path, archive, "zip", match)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("second", "match"), [("a/x", "occurs twice"), ("./a//x", "occurs twice"), ("a/x/y", "is a file and a folder")]
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_entries_that_overwrite_each_other(tmp_path, kind, second, match):
    archive = make(tmp_path, kind, [("a/x", b"1"), (second, b"2")])
    refused(tmp_path, archive, kind, match)


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_bomb_by_ratio(tmp_path, kind):
    archive = make(tmp_path, kind, [("zeros", bytes(40 * 2**20))])
    refused(tmp_path, archive, kind, "decompression bomb")


def test_bomb_that_declares_little(tmp_path):
    archive = make(tmp_path, "zip", [("zeros", bytes(2**20))])
    data = archive.read_bytes()
    assert data.count(struct.pack("<I", 2**20)) == 2  # in the local header and in the table of contents
    archive.write_bytes(data.replace(struct.pack("<I", 2**20), struct.pack("<I", 10)))
    refused(tmp_path, archive, "zip", "damaged|declares")


def test_bomb_in_a_tar_header_is_refused_before_its_bytes_are_read(tmp_path):
    info = tarfile.TarInfo("huge")
    info.size = 10**15
    archive = tmp_path / "a.tar"
    archive.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    refused(tmp_path, archive, "tar", "decompression bomb")


def test_giant_extension_header_is_not_read_into_memory(tmp_path):
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 2**33
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(2**20)))
    refused(tmp_path, archive, "tar.gz", "extension header of 8589934592 bytes")


def test_every_name_of_a_zip_of_more_than_65535_entries_is_read(tmp_path):
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        for i in range(66_000):
            opened.writestr(str(i), b"")
        opened.writestr("../evil", b"")
    refused(tmp_path, archive, "zip", "not safe")


def test_bomb_of_many_entries(tmp_path, monkeypatch):
    monkeypatch.setattr(unpacking, "MAX_ENTRIES", 10)
    archive = make(tmp_path, "zip", [(f"{i}", b"") for i in range(11)])
    refused(tmp_path, archive, "zip", "more than 10 entries")


def test_disk_too_small_is_told_before_writing(tmp_path, monkeypatch):
    monkeypatch.setattr(unpacking, "MAX_RATIO", 10**18)
    info = tarfile.TarInfo("huge")
    info.size = 10**17
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("huge", b"x")
        opened.infolist()[0].file_size = 10**17
    with pytest.raises(EvarError, match="not enough disk"):
        unpack(archive, tmp_path / "out", "zip")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_cut_archive_is_one_line_at_every_length(tmp_path, kind):
    whole = make(tmp_path, kind, GOOD)
    data = whole.read_bytes()
    end = len(data.rstrip(b"\0")) if kind == "tar" else len(data) - 1  # a tar may end in more zeros than it must
    for length in sorted({*range(0, end, max(1, end // 60)), end}):
        cut = tmp_path / f"cut.{kind}"
        cut.write_bytes(data[:length])
        with pytest.raises(EvarError, match=r"damaged, cut short|holds no files"):
            unpack(cut, tmp_path / "out", kind)
        assert tree(tmp_path / "out") == {} if (tmp_path / "out").exists() else True


@pytest.mark.parametrize("kind", KINDS)
def test_flipped_bytes_never_pass_for_other_content(tmp_path, kind):
    data = bytearray(make(tmp_path, kind, GOOD).read_bytes())
    for position in range(0, len(data), max(1, len(data) // 150)):
        damaged = data.copy()
        damaged[position] ^= 0xFF
        (tmp_path / "damaged").write_bytes(damaged)
        with tempfile.TemporaryDirectory(dir=tmp_path) as out:
            try:
                unpack(tmp_path / "damaged", Path(out), kind)
            except EvarError:
                assert tree(out) == {}
                continue
            if kind != "tar":  # a plain tar has no checksum of its content: the card's guards it
                assert {name: content for name, content in tree(out).items() if content is not None} == GOOD


def test_damaged_header_in_mid_tar_is_not_the_end(tmp_path):
    archive = make(tmp_path, "tar", GOOD)
    data = bytearray(archive.read_bytes())
    data[1024 + 148] ^= 0xFF  # the checksum in the second header
    archive.write_bytes(data)
    refused(tmp_path, archive, "tar", "bad checksum|damaged")


def test_encrypted_zip(tmp_path):
    archive = make(tmp_path, "zip", {"a.wav": b"x"})
    data = bytearray(archive.read_bytes())
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(signature) + offset] |= 1
    archive.write_bytes(data)
    refused(tmp_path, archive, "zip", "is encrypted")


def test_other_kind_than_the_card_says(tmp_path):
    archive = make(tmp_path, "zip", GOOD)
    refused(tmp_path, archive, "tar.gz", "another kind of file")
    with pytest.raises(EvarError, match="unknown kind 'rar'"):
        unpack(archive, tmp_path / "out", "rar")
    with pytest.raises(EvarError, match="no such file"):
        unpack(tmp_path / "none.zip", tmp_path / "out", "zip")


def test_permissions_of_the_archive_are_ignored(tmp_path):
    info = tarfile.TarInfo("tool")
    info.mode, info.uid, info.uname = 0o6777, 0, "root"
    unpack(make(tmp_path, "tar", [(info, b"x")]), tmp_path / "out", "tar")
    assert not (tmp_path / "out" / "tool").stat().st_mode & (stat.S_ISUID | stat.S_ISGID | 0o111)


def test_same_files_stay_and_missing_ones_are_added(tmp_path):
    out = tmp_path / "out"
    unpack(make(tmp_path, "zip", {"set/a": b"1"}), out, "zip")
    before = (out / "set" / "a").stat().st_mtime_ns
    unpack(make(tmp_path, "zip", {"set/a": b"1", "set/b": b"2"}), out, "zip")
    assert tree(out) == {"set": None, "set/a": b"1", "set/b": b"2"}
    assert (out / "set" / "a").stat().st_mtime_ns == before


@pytest.mark.parametrize("there", ["other content", "folder", "link"])
def test_what_is_there_is_never_overwritten(tmp_path, there):
    out, outside = tmp_path / "out", tmp_path / "outside"
    (out / "set").mkdir(parents=True)
    outside.mkdir()
    if there == "other content":
        (out / "set" / "a").write_bytes(b"mine")
    elif there == "folder":
        (out / "set" / "a").mkdir()
    else:
        (out / "set" / "a").symlink_to(outside / "target")
    before = tree(tmp_path)
    with pytest.raises(
        EvarError, match=r"differ from those in archive\.zip, the first is .*set/a: .*nothing was changed"
    ):
        unpack(make(tmp_path, "zip", {"first": b"0", "set/a": b"1"}), out, "zip")
    assert {name: content for name, content in tree(tmp_path).items() if name != "archive.zip"} == before


def test_link_in_the_destination_is_not_followed(tmp_path):
    out, outside = tmp_path / "out", tmp_path / "outside"
    out.mkdir()
    outside.mkdir()
    (out / "set").symlink_to(outside)
    with pytest.raises(EvarError, match="nothing was changed"):
        unpack(make(tmp_path, "zip", {"set/a": b"1"}), out, "zip")
    assert tree(outside) == {}


def test_interrupted_unpack_leaves_nothing_and_is_repeated(tmp_path):
    def interrupt(done, total):
        if done > total * 0.6:
            raise KeyboardInterrupt

    archive, out = make(tmp_path, "tar", GOOD), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        unpack(archive, out, "tar", interrupt)
    assert tree(out) == {}
    killed = out / f".{archive.name}.unpacking"  # what a kill -9 would leave
    killed.mkdir()
    (killed / "half").write_bytes(b"x")
    unpack(archive, out, "tar")
    assert {name for name, content in tree(out).items() if content is not None} == set(GOOD)


@settings(max_examples=150, deadline=None)
@given(
    names=st.lists(
        st.text(st.sampled_from("ab./\\:C \0\nä\ud800") | st.characters(), min_size=1, max_size=12),
        min_size=1,
        max_size=5,
    ),
    kind=st.sampled_from(KINDS),
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_no_name_writes_outside_the_destination(names, kind):
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "deep" / "out"
        try:
            archive = make(folder, kind, [(name, b"x") for name in names])
        except (UnicodeError, ValueError):
            return  # no writer can store this name
        try:
            unpack(archive, out, kind)
        except EvarError:
            assert not out.exists() or tree(out) == {}
        assert {entry.name for entry in os.scandir(folder)} <= {archive.name, "deep"}
        assert {entry.name for entry in os.scandir(out.parent)} <= {"out"} if out.parent.exists() else True
        assert all(content in (None, b"x") for content in tree(folder + "/deep").values())


@settings(max_examples=300)
@given(st.text(st.sampled_from("ab./\\:C~ \0") | st.characters(), max_size=20))
def test_safe_parts_stay_below(name):
    parts = safe_parts(name)
    if parts:
        joined = os.path.normpath(os.path.join("/base/out", *parts))
        assert joined.startswith("/base/out/")
        assert len(Path(joined).parts) == 3 + len(parts)
