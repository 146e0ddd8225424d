"""Prints the results of OpenStack's format_inspector for all files of a directory, one JSON object
per line.

Does what Glance does when an image is uploaded: passes the whole stream through the inspectors
and rejects files of several formats, except ISO with a partition table, which counts as ISO.
"""

import json
import logging
import os
import sys

from oslo_utils.imageutils import format_inspector

logging.disable(logging.CRITICAL)


def inspect(path, chunk):
    wrapper = None
    with open(path, "rb") as file:
        wrapper = format_inspector.InspectWrapper(file)
        while wrapper.read(chunk):
            pass
        wrapper.close()
    found = wrapper.formats
    names = sorted(str(inspector) for inspector in found)
    if names == ["gpt", "iso"]:
        found = [inspector for inspector in found if str(inspector) == "iso"]
    if len(found) > 1:
        return names, "several formats"
    try:
        found[0].safety_check()
    except format_inspector.SafetyCheckFailed as error:
        return names, ", ".join(sorted(error.failures))
    except format_inspector.ImageFormatError as error:
        return names, str(error)
    return names, None


for name in sorted(os.listdir(sys.argv[1])):
    path = os.path.join(sys.argv[1], name)
    answer = {"name": name, "formats": [], "refused": None, "failed": None}
    # With small chunks the inspectors see less of a descriptor: either size may cause a refusal.
    for chunk in (65536, 4096) if os.path.getsize(path) <= 16384 else (65536,):
        try:
            formats, refused = inspect(path, chunk)
        except Exception as error:
            answer["failed"] = f"{type(error).__name__}: {error}"
            continue
        answer["formats"] = sorted({*answer["formats"], *formats} - {"raw"})
        answer["refused"] = answer["refused"] or refused
    print(json.dumps(answer))
