"""Prints what archive readers list in all files of a directory, one JSON object per line: the
members by tarfile, zipfile, GNU tar, bsdtar and unzip, and the files that a descriptor refers to by
namespace, without one, by local name, and by the first section only, in its stated encoding and in
UTF-8; for ISO images, the extents of the files in the trees of Rock Ridge, of Joliet and of ISO
9660. A reader that refuses a file has no list. The slow readers run only on appliances and on a part of the other files.
"""

import io
import json
import os
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ET
import zipfile

NAMESPACES = [
    "{http://schemas.dmtf.org/ovf/envelope/1}",
    "{http://schemas.dmtf.org/ovf/envelope/2}",
    "{urn:unknown}",
]


def by_tarfile(path, texts):
    with tarfile.open(path, "r:*") as archive:
        members = archive.getmembers()
        for member in members:
            if member.isfile() and member.name.lower().endswith(".ovf"):
                texts.append(archive.extractfile(member).read())
        return sorted([clean(m.name), m.size if m.isfile() else 0] for m in members)


def clean(name):
    """Returns a name without what only some lists show."""
    return name.removeprefix("./").rstrip("/")


def by_command(command, path):
    """Returns the names and sizes that a command prints in the style of `ls -l`."""
    done = subprocess.run([*command, path], capture_output=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        return None
    members = []
    for line in done.stdout.decode("utf-8", "surrogateescape").splitlines():
        size, name = command_fields(command[0], line)
        members.append([clean(name), 0 if line[0] in "dlhbcp" else size])
    return sorted(members)


def by_unzip(path):
    """Returns the names that unzip extracts; as zipinfo it would search the whole file."""
    done = subprocess.run(["unzip", "-qql", path], capture_output=True, stdin=subprocess.DEVNULL)
    # 0 and 1 are success, and an archive without members.
    lines = done.stdout.decode("utf-8", "replace").splitlines() if done.returncode < 2 else []
    fields = [line.split(None, 3) for line in lines]
    return sorted([clean(found[3]), 0] for found in fields if len(found) == 4) or None


def command_fields(command, line):
    if command == "bsdtar":
        fields = line.split(None, 8)
        return int(fields[4]) if fields[4].isdigit() else 0, fields[8]
    fields = line.split(None, 5)
    return int(fields[2]) if fields[2].isdigit() else 0, fields[5]


def files_of(text):
    """Returns the files of the descriptor's disks, by the rules of several readers."""
    root = ET.fromstring(text)
    answers = []
    single = [[namespace] for namespace in NAMESPACES]
    for namespaces in (*single, NAMESPACES, [""], [*NAMESPACES, ""], None):
        for everywhere, strict in ((True, False), (False, False), (True, True), (False, True)):
            def local(element):
                prefix, _, name = element.tag.rpartition("}")
                known = not strict or namespaces is None or prefix + "}"[:len(prefix)] in namespaces
                return name if known else None

            def value(element, name):
                for key, value in element.attrib.items():
                    prefix, _, found = key.rpartition("}")
                    prefix = prefix and prefix + "}"
                    if found == name and (namespaces is None or prefix in namespaces):
                        return value
                return None

            def select(section, item):
                if everywhere:
                    return [e for e in root.iter() if local(e) == item]
                sections = [e for e in root if local(e) == section]
                return [e for e in (sections[0] if sections else ()) if local(e) == item]

            files = {}
            for file in select("References", "File"):
                files.setdefault(value(file, "id"), value(file, "href"))
            found = [files.get(value(d, "fileRef")) for d in select("DiskSection", "Disk")]
            # A reader that finds no file refuses the appliance.
            if found and all(found):
                answers.append(found)
    return answers


def lists_of(path, slow):
    texts, lists = [], {}
    try:
        lists["tarfile"] = by_tarfile(path, texts)
    except Exception:
        lists["tarfile"] = None
    try:
        with zipfile.ZipFile(path) as archive:
            lists["zipfile"] = sorted([i.filename, i.file_size] for i in archive.infolist())
    except Exception:
        lists["zipfile"] = None
    if slow:
        lists["tar"] = by_command(["tar", "-tv", "--quoting-style=literal", "-f"], path)
        lists["bsdtar"] = by_command(["bsdtar", "-tvf"], path)
        lists["unzip"] = by_unzip(path)
    files = []
    for text in texts:
        try:
            files.extend(files_of(text))
            files.extend(files_of(text.decode("utf-8-sig")))
        except Exception:
            pass
    return lists, files


def extents_of(path):
    """Returns the extents and lengths of the files in each tree, by lower-case path. Several files
    of one path in a tree have several."""
    trees = []
    for tree in (["-R"], ["-J"], []):
        done = subprocess.run(
            ["isoinfo", *tree, "-l", "-i", path], capture_output=True, stdin=subprocess.DEVNULL
        )
        files, directory = {}, ""
        for line in done.stdout.decode("utf-8", "replace").splitlines():
            if line.startswith("Directory listing of "):
                directory = line.removeprefix("Directory listing of ").strip().lower()
            elif line.startswith("-") and "[" in line:
                before, after = line.split("[", 1)
                extent, name = after.split("]", 1)
                fields = before.split()
                name = directory + name.strip().lower()
                if not tree:
                    name = name.rpartition(";")[0].removesuffix(".")
                found = files.setdefault(name, [])
                if (file := [extent.split()[0], fields[4]]) not in found:
                    found.append(file)
        trees.append(files)
    return trees


names = sorted(os.listdir(sys.argv[1]))
for number, name in enumerate(names):
    path = os.path.join(sys.argv[1], name)
    is_slow = name.endswith(".ova") or "marks" in name or "hybrid" in name or number % 8 == 0
    lists, files = lists_of(path, is_slow)
    trees = extents_of(path) if "volume" in name else []
    answer = json.dumps({"name": name, "lists": lists, "files": files, "trees": trees})
    # Bytes that are not UTF-8 become surrogates, which JSON parsers refuse.
    print(answer.replace("\\ud", "\\\\ud"))
