"""Makes an image of a directory: OUTPUT DIRECTORY SETTINGS, which are new()'s, as JSON."""

import json
import os
import sys

import pycdlib

output, top, settings = sys.argv[1:]
settings = json.loads(settings)
iso = pycdlib.PyCdlib()
iso.new(interchange_level=3, **settings)
numbers = iter(range(1 << 20))


def places(iso_above, above, name, is_dir):
    """Where an entry is, in each of the name spaces."""
    number = next(numbers)
    iso_name = f"D{number:05}" if is_dir else f"F{number:05}.;1"
    words = {"iso_path": f"{iso_above}/{iso_name}"}
    if "rock_ridge" in settings:
        words["rr_name"] = name
    if "joliet" in settings:
        words["joliet_path"] = f"{above}/{name}"
    if "udf" in settings:
        words["udf_path"] = f"{above}/{name}"
    return words


def add(directory, iso_above, above):
    for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
        if entry.is_symlink():
            if "rock_ridge" in settings:
                words = places(iso_above, above, entry.name, False)
                target = os.readlink(entry.path)
                iso.add_symlink(words["iso_path"], entry.name, target)
            continue
        is_dir = entry.is_dir()
        words = places(iso_above, above, entry.name, is_dir)
        if is_dir:
            iso.add_directory(**words)
            add(entry.path, words["iso_path"], f"{above}/{entry.name}")
        else:
            iso.add_file(entry.path, **words)


add(top, "", "")
iso.write(output)
iso.close()
