"""Words as arguments: the types, the library's enumerations and what functions accept agree."""

import inspect
import re
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import diskimg
import diskimg.iso
import diskimg.types
import pytest
from diskimg import _native

from examples import PROJECT

LITERALS = {
    name: typing.get_args(alias)
    for name, alias in vars(diskimg.types).items()
    if typing.get_origin(alias) is typing.Literal
}


def test_each_literal_type_has_the_words_of_the_librarys_enumeration() -> None:
    words = {name: tuple(all) for name, all in _native.words()}
    assert len(words) > 10
    for name, all in words.items():
        assert LITERALS[name] == all, name
    assert set(LITERALS) - set(words) == {"Namespace", "VmdkSubformat"}
    assert LITERALS["NamespaceChoice"] == ("auto", *LITERALS["Namespace"])
    assert LITERALS["Format"] == diskimg.FORMATS


def test_each_vmdk_subformat_is_created_and_no_other_is_documented(tmp_path: Path) -> None:
    [option] = [one for one in diskimg.create_options("vmdk") if one.name == "subformat"]
    documented = re.findall(r"[{|] (\w+)|\{(\w+)", option.help)
    assert {a or b for a, b in documented} == set(LITERALS["VmdkSubformat"])
    for word in LITERALS["VmdkSubformat"]:
        for spelled in (word, word.upper()):
            disk = tmp_path / f"{spelled}.vmdk"
            diskimg.create(disk, "1M", options={"subformat": spelled})
            specific = diskimg.info(disk).format_specific
            assert specific is not None and specific["create-type"] == word


def calls(raw: Path, out: Path) -> Iterator[tuple[str, tuple[str, ...], Callable[[Any], object]]]:
    """Arguments that are words: name, words, and a call with one."""
    formats = ("qcow2", "vmdk", "ova", "raw")
    convert = diskimg.convert
    yield "format", formats, lambda w: convert(raw, out, src_format="raw", format=w)
    yield "src_format", ("raw",), lambda w: convert(raw, out, src_format=w)
    yield "format", ("raw",), lambda w: diskimg.open(raw, w)
    yield "format", ("raw",), lambda w: diskimg.info(raw, format=w)
    yield "format", ("raw",), lambda w: diskimg.map(raw, w)
    yield "format", ("raw", "qcow2"), lambda w: diskimg.measure(size=1, format=w)
    yield "format", ("raw", "qcow2"), lambda w: diskimg.open(raw, "raw").measure(w)
    yield "format", formats[:2], lambda w: diskimg.create(out, "1M", format=w)
    yield "format", formats, lambda w: diskimg.create_options(w)
    yield "format", ("raw", "qcow2"), lambda w: diskimg.inspect(raw, format=w)
    codes = LITERALS["FindingCode"]
    yield "allow", codes, lambda w: diskimg.inspect(raw, allow=[w])
    yield "a_format", ("raw",), lambda w: diskimg.compare(raw, raw, a_format=w, b_format="raw")
    yield "b_format", ("raw",), lambda w: diskimg.compare(raw, raw, a_format="raw", b_format=w)
    policies = LITERALS["ExternalFiles"]
    yield "external_files", policies, lambda w: diskimg.open(raw, "raw", external_files=w)
    yield "external_files", policies, lambda w: diskimg.create(out, "1M", external_files=w)
    reflinks = ("auto", "never")
    yield "reflink", reflinks, lambda w: convert(raw, out, src_format="raw", reflink=w)
    digests = LITERALS["DigestAlgorithm"]
    yield "digest", digests, lambda w: convert(raw, out, src_format="raw", digest=w)

    def resize(word: Any) -> None:
        diskimg.create(out, "1M", format="qcow2")
        diskimg.resize(out, "2M", format="qcow2", preallocation=word)

    yield "preallocation", LITERALS["Preallocation"], resize

    def repair(word: Any) -> None:
        diskimg.create(out, "1M", format="qcow2")
        diskimg.check(out, "qcow2", repair=word)

    yield "repair", LITERALS["RepairScope"], repair
    iso, tree = diskimg.iso, {"a": b""}
    yield "profile", ("openstack",), lambda w: iso.create(out, tree, profile=w)
    modes = LITERALS["RockRidgeMode"]
    yield "rock_ridge", modes, lambda w: iso.create(out, tree, rock_ridge=w)
    yield "joliet", LITERALS["JolietMode"], lambda w: iso.create(out, tree, joliet=w)
    yield "hide", LITERALS["Hide"], lambda w: iso.create(out, tree, hide=[("a", w)])
    image = iso.nocloud("", "")
    yield "namespace", ("auto", "joliet", "iso"), lambda w: iso.open(image, namespace=w)
    yield "drop", LITERALS["Droppable"], lambda w: iso.remaster(image, {}, drop=[w])


def test_words_are_accepted_in_any_case_and_others_are_errors_with_a_suggestion(
    raw: Path, tmp_path: Path
) -> None:
    for argument, words, call in calls(raw, tmp_path / "out"):
        for word in words:
            for spelled in (word, word.upper(), word.title()):
                call(spelled)
        with pytest.raises(diskimg.InvalidError) as caught:
            call("nonsense")
        message = str(caught.value)
        assert "nonsense" in message and words[0] in message
        with pytest.raises(diskimg.InvalidError) as caught:
            call(words[0] + "_")
        message = str(caught.value)
        if "Unknown format" not in message:  # inspect() knows more formats
            assert message.startswith(f"{argument}='")
            assert message.endswith(f"; did you mean {words[0]!r}?"), message
        with pytest.raises(TypeError):
            call(7)


def test_misspelled_options_and_limits_are_errors_with_a_suggestion(raw: Path) -> None:
    with pytest.raises(diskimg.InvalidError, match="did you mean 'cluster_size'") as caught:
        diskimg.create("never.qcow2", "1M", options={"cluster_sise": 1})
    assert "the format qcow2 has no option 'cluster_sise'" in str(caught.value)
    with pytest.raises(diskimg.InvalidError, match=r"unknown limit .* mean 'table_bytes'"):
        diskimg.open(raw, limits={"tablebytes": 1})


def test_a_digest_that_is_none_is_an_invalid_argument(raw: Path, tmp_path: Path) -> None:
    for digest in ("", "zz" * 32, "0" * 63):
        with pytest.raises(diskimg.InvalidError, match="64 hexadecimal digits"):
            diskimg.convert(raw, tmp_path / "out", src_format="raw", sha256=digest)
    with pytest.raises(diskimg.CorruptError):
        diskimg.convert(raw, tmp_path / "out", src_format="raw", sha256="0" * 64)


def test_the_format_of_a_new_image_follows_from_its_name(tmp_path: Path) -> None:
    for name, format in [
        ("a.qcow2", "qcow2"),
        ("A.QCOW2", "qcow2"),
        ("b.vmdk", "vmdk"),
        ("c.img", "raw"),
        ("qcow2", "raw"),
        (".qcow2", "raw"),
    ]:
        assert diskimg.create(tmp_path / name, "1M").format == format, name
    assert _native.format_of_name("d.ova") == _native.format_of_name("d.OVF") == "ova"


def remedies() -> dict[str, str]:
    """The remedies of the library with their words in Python."""
    source = (PROJECT / "python/src/remedy.rs").read_text()
    texts = re.findall(
        r'Remedy::(\w+)[^=]*=> \{?\s*(?:return Some\(format!\()?"((?:\\"|[^"])*)"', source
    )
    return {name: text.replace('\\"', '"') for name, text in texts}


def test_every_remedy_is_worded_in_terms_of_python() -> None:
    library = (PROJECT / "crates/diskimg/src/remedy.rs").read_text()
    body = re.search(r"pub enum Remedy \{(.*?)\n\}", library, re.DOTALL)
    assert body is not None
    variants = re.findall(r"^    ([A-Z]\w+)[,(]", body[1], re.MULTILINE)
    assert len(variants) > 30
    texts = remedies()
    assert sorted(texts) == sorted(variants)

    public = [*vars(diskimg).items(), *vars(diskimg.iso).items(), *vars(diskimg.iso.Iso).items()]
    arguments = {
        name
        for _, function in public
        if inspect.isfunction(function)
        or (inspect.isclass(function) and hasattr(function, "__dataclass_fields__"))
        for name in inspect.signature(function).parameters
    }
    for variant, text in texts.items():
        assert "--" not in text and "::" not in text, variant
        assert not re.search(r"\b-\w\b", text), variant
        for name in re.findall(r"(\w+)=", text):
            assert name in arguments, (variant, name)
        for name in re.findall(r"diskimg\.([\w.]+)\(", text):
            value: object = diskimg
            for part in name.split("."):
                value = getattr(value, part)
            assert callable(value)
