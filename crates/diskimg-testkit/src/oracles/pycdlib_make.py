"""Creates an image of a directory with pycdlib: OUTPUT DIRECTORY SETTINGS.

SETTINGS are the arguments of PyCdlib.new() as JSON.
"""

import json
import os
import sys

import pycdlib

output, top, settings = sys.argv[1:]
settings = json.loads(settings)
iso = pycdlib.PyCdlib()
iso.new(interchange_level=3, **settings)
numbers = iter(range(1 << 20))


def paths(iso_parent, parent, name, is_dir):
    """Returns the arguments that give the path of an entry in every namespace."""
    number = next(numbers)
    iso_name = f"D{number:05}" if is_dir else f"F{number:05}.;1"
    arguments = {"iso_path": f"{iso_parent}/{iso_name}"}
    if "rock_ridge" in settings:
        arguments["rr_name"] = name
    if "joliet" in settings:
        arguments["joliet_path"] = f"{parent}/{name}"
    if "udf" in settings:
        arguments["udf_path"] = f"{parent}/{name}"
    return arguments


def add(directory, iso_parent, parent):
    for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
        if entry.is_symlink():
            if "rock_ridge" in settings:
                arguments = paths(iso_parent, parent, entry.name, False)
                target = os.readlink(entry.path)
                iso.add_symlink(arguments["iso_path"], entry.name, target)
            continue
        is_dir = entry.is_dir()
        arguments = paths(iso_parent, parent, entry.name, is_dir)
        if is_dir:
            iso.add_directory(**arguments)
            add(entry.path, arguments["iso_path"], f"{parent}/{entry.name}")
        else:
            iso.add_file(entry.path, **arguments)


add(top, "", "")
iso.write(output)
iso.close()
