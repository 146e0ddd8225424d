"""What pycdlib reads: kind, path, size, SHA-256, link target of every file, a line each."""

import hashlib
import io
import sys

import pycdlib

image, names = sys.argv[1:]
iso = pycdlib.PyCdlib()
iso.open(image)
keyword = {"rr": "rr_path", "joliet": "joliet_path", "iso": "iso_path", "udf": "udf_path"}[names]


def shown(child):
    """A child's name in the name space asked for; None for itself and its parent."""
    if child is None or child.is_dot() or child.is_dotdot():
        return None
    if names == "rr":
        return child.rock_ridge.name()
    if names == "joliet":
        return child.file_identifier().decode("utf-16_be").split(";")[0].encode()
    if names == "udf":
        return child.file_identifier().decode(child.file_ident.encoding).encode()
    name = child.file_identifier().split(b";")[0]
    return name.removesuffix(b".")


def visit(path, above):
    for child in iso.list_children(**{keyword: path}):
        name = shown(child)
        if name is None:
            continue
        here = above + b"/" + name if above else name
        inside = (path.rstrip("/") + "/" + name.decode()) if names != "iso" else (
            path.rstrip("/") + "/" + child.file_identifier().decode()
        )
        kind, size, sha, link = "f", 0, "", b""
        if child.is_dir():
            kind = "d"
        elif names == "rr" and child.rock_ridge.is_symlink():
            kind, link = "l", child.rock_ridge.symlink_path()
        else:
            content = io.BytesIO()
            try:
                iso.get_file_from_iso_fp(content, **{keyword: inside})
            except pycdlib.pycdlibexception.PyCdlibInvalidInput as error:
                # A symbolic link of Rock Ridge, seen by way of another name space.
                assert "Symlinks" in str(error), error
            size = len(content.getvalue())
            sha = hashlib.sha256(content.getvalue()).hexdigest()
        print(kind, here.hex(), size, sha, link.hex(), sep="\t")
        if kind == "d":
            visit(inside, here)


visit("/", b"")
