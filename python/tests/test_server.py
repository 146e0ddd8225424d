"""`serve`."""

import socket
import struct
import subprocess
from pathlib import Path

import diskimg
import pytest


def test_a_disk_is_copied_by_other_programs(tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(bytes(range(256)) * 4096)
    diskimg.convert(disk, tmp_path / "disk.vmdk")
    with diskimg.serve(tmp_path / "disk.vmdk", socket=tmp_path / "s") as server:
        assert server.uri == f"nbd+unix:///?socket={tmp_path}/s"
        copy = tmp_path / "copy.raw"
        subprocess.run(["nbdcopy", server.uri, str(copy)], check=True)
        assert copy.read_bytes() == disk.read_bytes()
    assert server.closed
    assert not (tmp_path / "s").exists()
    server.close()


def test_what_is_written_is_stored_at_the_end(tmp_path: Path) -> None:
    disk, image = tmp_path / "disk.raw", tmp_path / "image"
    disk.write_bytes(b"written" * 10_000 + bytes(2768))
    diskimg.create(image, "1M", format="qcow2")
    with pytest.raises(diskimg.UnsupportedError, match="format"):
        diskimg.serve(image, socket=tmp_path / "s", writable=True)
    with diskimg.serve(image, "qcow2", socket=tmp_path / "s", writable=True) as server:
        with pytest.raises(diskimg.LockedError):
            diskimg.serve(image, "qcow2", socket=tmp_path / "t", writable=True)
        subprocess.run(["nbdcopy", str(disk), server.uri], check=True)
    with diskimg.open(image) as opened:
        assert opened.read_at(0, 70_000) == disk.read_bytes()[:70_000]


def test_a_port_is_that_of_this_machine(tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(bytes(4096))
    with diskimg.serve(disk, "raw", port=0, export_name="a b", clients=1) as server:
        assert server.uri.endswith("/a%20b")
        port = int(server.uri.split(":")[2].split("/")[0])
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            assert client.recv(18, socket.MSG_WAITALL) == b"NBDMAGICIHAVEOPT" + struct.pack(">H", 3)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=10)


def test_arguments_are_checked(tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(bytes(4096))
    with pytest.raises(ValueError, match="socket or port"):
        diskimg.serve(disk)
    with pytest.raises(ValueError, match="socket or port"):
        diskimg.serve(disk, socket="s", port=1)
    with pytest.raises(ValueError, match="IP address"):
        diskimg.serve(disk, port=0, address="localhost")
    with pytest.raises(ValueError, match="clients"):
        diskimg.serve(disk, port=0, clients=0)
    with pytest.raises(diskimg.IoError):
        diskimg.serve(disk, socket=tmp_path / "no" / "s")
    with pytest.raises(diskimg.IoError):
        diskimg.serve(tmp_path / "missing", port=0)
