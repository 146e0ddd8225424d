"""Writes the guest bytes of an ASIF image, read with dissect.hypervisor, to standard output."""

import shutil
import sys

from dissect.hypervisor.disk.asif import ASIF

with open(sys.argv[1], "rb") as file:
    shutil.copyfileobj(ASIF(file).open(), sys.stdout.buffer)
