"""What a user may name, and which shards it stands for."""

from __future__ import annotations

from pathlib import Path

import pytest

from cellscribe.atlas.sources import find_shards
from cellscribe.errors import InputError


@pytest.fixture
def atlas(tmp_path: Path) -> Path:
    folder = tmp_path / "atlas"
    for name in ("b.h5ad", "a.h5ad", "c.loom", "notes.txt", ".hidden.h5ad"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    (folder / "d.zarr").mkdir()
    (folder / "d.zarr" / "zarr.json").write_text("{}")
    (folder / "lane1").mkdir()
    (folder / "lane1" / "matrix.mtx").write_text("")
    return folder


def names(*words: str | Path) -> list[str]:
    return [shard.name for shard in find_shards(words)]


def test_a_folder_a_glob_and_several_paths(atlas: Path) -> None:
    assert names(atlas) == ["a", "b", "c", "d", "lane1"]
    assert names(f"{atlas}/*.h5ad") == ["a", "b"]
    assert names(atlas / "b.h5ad", atlas / "a.h5ad") == ["b", "a"]
    assert names(atlas / "d.zarr") == ["d"]
    assert names(atlas / "lane1") == ["lane1"]


def test_a_list_names_paths_relative_to_itself(atlas: Path) -> None:
    table = atlas / "list.csv"
    table.write_text("path,name,layer,gene_key\na.h5ad,first,counts,\nb.h5ad,,,symbol\n")
    first, second = find_shards([table])
    assert (first.name, first.layer, first.gene_key) == ("first", "counts", None)
    assert (second.name, second.layer, second.gene_key) == ("b", None, "symbol")
    assert Path(second.path) == atlas / "b.h5ad"
    text = atlas / "list.txt"
    text.write_text("# two\nb.h5ad\n\ns3://bucket/x.h5ad\n")
    assert [(s.name, s.path) for s in find_shards([text])] == [
        ("b", str(atlas / "b.h5ad")),
        ("x", "s3://bucket/x.h5ad"),
    ]


def test_a_table_of_counts_is_no_list(atlas: Path) -> None:
    table = atlas / "counts.csv"
    table.write_text("gene,cell1,cell2\nTP53,1,0\n")
    assert [(s.name, s.path) for s in find_shards([table])] == [("counts", str(table))]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path\nz.h5ad\n", "line 2: z.h5ad: no such file"),
        ("path,colour\na.h5ad,red\n", "unknown column 'colour'; known are path, name"),
        ("path\n", "lists no source"),
        ("path,name\na.h5ad,x/y\n", "'x/y' is no name of a file"),
        ("path,name\n*.h5ad,x\n", "one name for several sources"),
        ("path,name\na.h5ad,x,3\n", "line 2: not a path in each line"),
        ("path,name\na.h5ad,x\nb.h5ad,X\n", "two sources would give one file"),
        ("path\na.h5ad\nb.h5ad\n./a.h5ad\n", "line 4: the same as line 2"),
        ("path,name\na.h5ad,x\na.h5ad,x2\nz.h5ad,\n", "line 4: z.h5ad: no such file"),
        ("path\na.h5ad\nmore.csv\n", "line 3: more.csv is itself a list"),
        ("path\na.h5ad\n*.zzz\n", "line 3: "),
        ("path,path\na.h5ad,b.h5ad\n", "two columns 'path'"),
        ("file,name\na.h5ad,x\n", "its first line has no column path"),
        ("name\na.h5ad\n", "its first line has no column path"),
        ('path,name\n"a.h5ad,x\n', "not a list of sources"),
    ],
)
def test_a_wrong_list_is_refused_with_its_line(atlas: Path, content: str, message: str) -> None:
    table = atlas / "list.csv"
    table.write_text(content)
    (atlas / "more.csv").write_text("path\nb.h5ad\n")
    with pytest.raises(InputError, match=message.replace("*", r"\*")):
        find_shards([table])


@pytest.mark.parametrize(
    "content",
    [
        b"path,name\r\na.h5ad,x\r\nc.loom,\r\n",
        b"\xef\xbb\xbfpath,name\r\na.h5ad,x\r\nc.loom,\r\n",
        b'"path","name"\n"a.h5ad","x"\n"c.loom",""\n',
        b"path;name\na.h5ad;x\nc.loom;\n",
        b"path\tname\na.h5ad\tx\nc.loom\t\n",
        b"name, path\nx, a.h5ad\n, c.loom\n\n",
    ],
)
def test_a_list_may_come_from_any_spreadsheet(atlas: Path, content: bytes) -> None:
    table = atlas / "list.csv"
    table.write_bytes(content)
    expected = [("x", f"{atlas}/a.h5ad"), ("c", f"{atlas}/c.loom")]
    assert [(s.name, s.path) for s in find_shards([table])] == expected


def test_a_missing_file_is_named_wherever_it_stands(atlas: Path) -> None:
    for first, second, line in (("z.h5ad", "a.h5ad", 1), ("a.h5ad", "z.h5ad", 2)):
        text = atlas / "list.txt"
        text.write_bytes(f"{first}\r\n{second}\r\n".encode())
        with pytest.raises(InputError, match=rf"list\.txt, line {line}: z\.h5ad: no such file"):
            find_shards([text])
    text.write_text("z.h5ad\n")
    with pytest.raises(InputError, match=r"list\.txt, line 1: z\.h5ad: no such file"):
        find_shards([text])


@pytest.mark.parametrize(
    "url",
    ["s3://key:SECRET@bucket/a.h5ad", "https://x.org/a.h5ad?X-Amz-Signature=SECRET"],
)
def test_keys_in_a_url_are_refused_and_not_shown(url: str) -> None:
    with pytest.raises(InputError, match=r"keys in a URL|a signed address") as told:
        find_shards([url])
    assert "SECRET" not in str(told.value)


def test_what_names_nothing_is_refused(atlas: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\*\.zzz: no file has such a name"):
        find_shards([f"{atlas}/*.zzz"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty: no cells in it"):
        find_shards([tmp_path / "empty"])
    with pytest.raises(InputError, match=r"a\.h5ad is named twice"):
        find_shards([atlas / "a.h5ad", f"{atlas}/a*"])
    (tmp_path / "a.h5ad").write_bytes(b"x")
    with pytest.raises(InputError, match="two sources would give one file a"):
        find_shards([atlas / "a.h5ad", tmp_path / "a.h5ad"])
