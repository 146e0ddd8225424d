"""Lists an image with pycdlib: IMAGE NAMESPACE.

Prints kind, path, size, SHA-256 and link target of every file, one per line.
"""

import hashlib
import io
import sys

import pycdlib

image, namespace = sys.argv[1:]
iso = pycdlib.PyCdlib()
iso.open(image)
paths = {"rr": "rr_path", "joliet": "joliet_path", "iso": "iso_path", "udf": "udf_path"}
keyword = paths[namespace]


def name_of(child):
    """Returns a child's name in the namespace; None for the directory itself and its parent."""
    if child is None or child.is_dot() or child.is_dotdot():
        return None
    if namespace == "rr":
        return child.rock_ridge.name()
    if namespace == "joliet":
        return child.file_identifier().decode("utf-16_be").split(";")[0].encode()
    if namespace == "udf":
        return child.file_identifier().decode(child.file_ident.encoding).encode()
    name = child.file_identifier().split(b";")[0]
    return name.removesuffix(b".")


def visit(path, parent):
    for child in iso.list_children(**{keyword: path}):
        name = name_of(child)
        if name is None:
            continue
        here = parent + b"/" + name if parent else name
        inside = (path.rstrip("/") + "/" + name.decode()) if namespace != "iso" else (
            path.rstrip("/") + "/" + child.file_identifier().decode()
        )
        kind, size, sha, link = "f", 0, "", b""
        if child.is_dir():
            kind = "d"
        elif namespace == "rr" and child.rock_ridge.is_symlink():
            kind, link = "l", child.rock_ridge.symlink_path()
        else:
            content = io.BytesIO()
            try:
                iso.get_file_from_iso_fp(content, **{keyword: inside})
            except pycdlib.pycdlibexception.PyCdlibInvalidInput as error:
                # A Rock Ridge symbolic link, listed in another namespace.
                assert "Symlinks" in str(error), error
            size = len(content.getvalue())
            sha = hashlib.sha256(content.getvalue()).hexdigest()
        print(kind, here.hex(), size, sha, link.hex(), sep="\t")
        if kind == "d":
            visit(inside, here)


visit("/", b"")
