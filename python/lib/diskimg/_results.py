"""Results: dataclasses that can be printed, compared and converted to qemu-img's JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from diskimg.types import (
    Consumer,
    DigestAlgorithm,
    FindingCode,
    Format,
    PreflightCode,
    Severity,
)

Json: TypeAlias = dict[str, Any]
"""A JSON object, as `json.dumps` accepts it."""


def _present(**facts: Any) -> Json:
    """Return a JSON object with qemu-img's keys; like qemu-img, omit `None` and empty lists."""
    return {
        name.replace("_", "-"): value for name, value in facts.items() if value not in (None, [])
    }


def _fields(facts: Json) -> Json:
    """Return a JSON object with its keys turned into field names."""
    return {key.replace("-", "_"): value for key, value in facts.items()}


@dataclass(frozen=True, slots=True)
class Bitmap:
    """A dirty bitmap of a qcow2 image: it records which parts of the disk were written.

    >>> diskimg.create("disk.qcow2", "1G").size
    1073741824
    >>> diskimg.add_bitmap("disk.qcow2", "since-monday")
    >>> with diskimg.open("disk.qcow2", "qcow2") as image:
    ...     image.bitmaps()
    (Bitmap(name='since-monday', granularity=65536, enabled=True, inconsistent=False),)
    """

    name: str
    """Name."""
    granularity: int
    """Guest bytes per bit."""
    enabled: bool
    """Whether writes are recorded."""
    inconsistent: bool
    """Whether the bitmap was not stored properly, for example because a program that uses the
    image was killed. It can only be removed."""

    @classmethod
    def _from_json(cls, facts: Json) -> Bitmap:
        return cls(**_fields(facts))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An internal snapshot of a qcow2 image.

    >>> diskimg.create("disk.qcow2", "1G").size
    1073741824
    >>> [snapshot.name for snapshot in diskimg.info("disk.qcow2").snapshots]
    []
    """

    id: str
    """Unique identifier."""
    name: str
    """Name; not necessarily unique."""
    vm_state_size: int
    """Size in bytes of the saved VM state."""
    date_sec: int
    """Creation time in seconds since 1970, UTC."""
    date_nsec: int
    """Nanosecond part of the creation time."""
    vm_clock_sec: int
    """Guest uptime in seconds."""
    vm_clock_nsec: int
    """Nanosecond part of the guest uptime."""
    icount: int | None = None
    """Number of instructions executed, if recorded."""

    @classmethod
    def _from_json(cls, facts: Json) -> Snapshot:
        return cls(**_fields(facts))

    def to_dict(self) -> Json:
        """As in qemu-img's ``info --output=json``."""
        return _present(
            id=self.id,
            name=self.name,
            vm_state_size=self.vm_state_size,
            date_sec=self.date_sec,
            date_nsec=self.date_nsec,
            vm_clock_sec=self.vm_clock_sec,
            vm_clock_nsec=self.vm_clock_nsec,
            icount=self.icount,
        )


@dataclass(frozen=True, slots=True)
class Child:
    """A file that is part of an image.

    >>> diskimg.create("disk.vmdk", "1G", options={"subformat": "monolithicFlat"}).size
    1073741824
    >>> [child.filename for child in diskimg.info("disk.vmdk").children]
    ['disk-flat.vmdk', 'disk.vmdk']
    """

    name: str
    """Role of the file: ``file``, ``data-file``, ``extents.0``, …"""
    filename: str
    """Path of the file."""
    format: str
    """``file``, or ``host_device`` for a block device."""
    virtual_size: int
    """Length in bytes, rounded up to 512-byte sectors as in QEMU."""
    actual_size: int | None
    """Space that the file occupies on the host in bytes, if known."""

    @classmethod
    def _from_json(cls, facts: Json) -> Child:
        info = facts["info"]
        return cls(
            facts["name"],
            info["filename"],
            info["format"],
            info["virtual-size"],
            info.get("actual-size"),
        )

    def to_dict(self) -> Json:
        """As in qemu-img's ``info --output=json``."""
        info = _present(
            virtual_size=self.virtual_size,
            filename=self.filename,
            format=self.format,
            actual_size=self.actual_size,
            format_specific={"type": "file", "data": {}},
            dirty_flag=False,
        )
        return {"name": self.name, "info": {"children": [], **info}}


@dataclass(frozen=True, slots=True)
class Info:
    """Information about an image or a layer of its backing chain.

    >>> diskimg.create("disk.qcow2", "1G").size
    1073741824
    >>> info = diskimg.info("disk.qcow2")
    >>> info.format, info.virtual_size, info.cluster_size, info.backing_filename
    ('qcow2', 1073741824, 65536, None)
    >>> sorted(info.to_dict())[:4]
    ['actual-size', 'children', 'cluster-size', 'dirty-flag']
    """

    filename: str
    """The name that the image was opened with."""
    format: Format
    """The image's format: one of `FORMATS`."""
    virtual_size: int
    """Size of the virtual disk in bytes."""
    actual_size: int | None = None
    """Space that the image occupies on the host in bytes, if known."""
    cluster_size: int | None = None
    """Cluster size in bytes, if the format has one."""
    encrypted: bool = False
    """Whether the guest data are encrypted."""
    compressed: bool = False
    """Whether the format compresses all data (such as streamOptimized)."""
    dirty: bool = False
    """Whether the image was not closed properly."""
    backing_filename: str | None = None
    """The backing file's name as recorded in the image."""
    full_backing_filename: str | None = None
    """The backing file's name, resolved relative to the image's directory."""
    backing_format: str | None = None
    """The backing file's format as recorded in the image."""
    snapshots: tuple[Snapshot, ...] = ()
    """Internal snapshots."""
    children: tuple[Child, ...] = ()
    """The files that the image consists of, without its backing file."""
    format_specific: Mapping[str, Any] | None = field(default=None, hash=False)
    """Format-specific information, with qemu-img's keys."""
    notes: tuple[str, ...] = ()
    """Notes for the user, one sentence each."""

    @classmethod
    def _from_json(cls, facts: Json) -> Info:
        specific = facts.get("format-specific")
        return cls(
            filename=facts["filename"],
            format=facts["format"],
            virtual_size=facts["virtual-size"],
            actual_size=facts.get("actual-size"),
            cluster_size=facts.get("cluster-size"),
            encrypted=facts.get("encrypted", False),
            compressed=facts.get("compressed", False),
            dirty=facts["dirty-flag"],
            backing_filename=facts.get("backing-filename"),
            full_backing_filename=facts.get("full-backing-filename"),
            backing_format=facts.get("backing-filename-format"),
            snapshots=tuple(map(Snapshot._from_json, facts.get("snapshots", ()))),
            children=tuple(map(Child._from_json, facts["children"])),
            format_specific=None if specific is None else specific["data"],
            notes=tuple(facts.get("notes", ())),
        )

    def to_dict(self) -> Json:
        """As in ``qemu-img info --output=json``, with ``notes`` in addition."""
        specific = self.format_specific
        return {
            "children": [child.to_dict() for child in self.children],
            "dirty-flag": self.dirty,
            **_present(
                snapshots=[snapshot.to_dict() for snapshot in self.snapshots],
                backing_filename=self.backing_filename,
                full_backing_filename=self.full_backing_filename,
                backing_filename_format=self.backing_format,
                virtual_size=self.virtual_size,
                filename=self.filename,
                cluster_size=self.cluster_size,
                format=self.format,
                actual_size=self.actual_size,
                encrypted=self.encrypted or None,
                compressed=self.compressed or None,
                format_specific=specific and {"type": self.format, "data": dict(specific)},
                notes=list(self.notes),
            ),
        }


@dataclass(frozen=True, slots=True)
class Extent:
    """A range of guest bytes that one layer stores in the same way.

    >>> Path("disk.raw").write_bytes(b"data".ljust(4096, b"\\1") + bytes(4096))
    8192
    >>> diskimg.convert("disk.raw", "disk.qcow2", options={"cluster_size": 4096}).stored_bytes
    4096
    >>> [(extent.start, extent.end, extent.zero) for extent in diskimg.map("disk.qcow2")]
    [(0, 4096, False), (4096, 8192, True)]
    """

    start: int
    """Guest offset in bytes."""
    length: int
    """Length in bytes; never 0."""
    depth: int
    """The layer that the bytes are read from: 0 is the image, 1 its backing file, and so on."""
    present: bool
    """Whether the bytes are allocated in some layer, as data or as zeros."""
    zero: bool
    """Whether the bytes read as zeros."""
    data: bool
    """Whether the bytes are stored as data."""
    compressed: bool
    """Whether the bytes are stored compressed."""
    offset: int | None = None
    """Host offset of the first byte, if the bytes are stored verbatim."""
    filename: str | None = None
    """The file that `offset` refers to."""

    @property
    def end(self) -> int:
        """Guest offset past the last byte."""
        return self.start + self.length

    def to_dict(self) -> Json:
        """As an entry of ``qemu-img map --output=json``."""
        return _present(
            start=self.start,
            length=self.length,
            depth=self.depth,
            present=self.present,
            zero=self.zero,
            data=self.data,
            compressed=self.compressed,
            offset=self.offset,
        )


@dataclass(frozen=True, slots=True)
class Detection:
    """The format of a file by its signature.

    >>> diskimg.detect(b"QFI\\xfb\\0\\0\\0\\3" + bytes(504))
    Detection(filename=None, format='qcow2')
    """

    filename: str | None
    """The file's name; `None` for bytes."""
    format: Format
    """One of `FORMATS`; ``raw`` if no signature matched."""

    def to_dict(self) -> Json:
        """The fields, with qemu-img's keys."""
        return _present(filename=self.filename, format=self.format)


@dataclass(frozen=True, slots=True)
class Reference:
    """A file that an image refers to. It was not opened, and may not exist.

    >>> diskimg.create("base.qcow2", "1G").size
    1073741824
    >>> diskimg.create("disk.qcow2", backing="base.qcow2", backing_format="qcow2").size
    1073741824
    >>> diskimg.inspect("disk.qcow2").references
    (Reference(role='backing-file', name='base.qcow2', format='qcow2'),)
    """

    role: Literal["backing-file", "data-file", "extent", "parent", "file"]
    """Role of the file."""
    name: str
    """The file's name as recorded in the image."""
    format: str | None = None
    """The file's format as recorded in the image."""

    def to_dict(self) -> Json:
        """The fields."""
        return _present(role=self.role, name=self.name, format=self.format)


@dataclass(frozen=True, slots=True)
class InspectionFinding:
    """A finding about an untrusted image.

    >>> [finding.code for finding in diskimg.inspect(bytes(512), format="qcow2").findings]
    ['format-mismatch']
    """

    code: FindingCode
    """A stable identifier such as ``backing-file``; SECURITY.md lists them."""
    severity: Severity
    """Its effect on the verdict: a single ``error`` makes the image unsafe."""
    message: str
    """Description, one line. It may quote the image."""
    offset: int | None = None
    """Offset in the file in bytes, if the finding is about one place."""
    path: str | None = None
    """The file of an appliance that the finding is about."""

    def to_dict(self) -> Json:
        """The fields."""
        return _present(
            code=self.code,
            severity=self.severity,
            message=self.message,
            offset=self.offset,
            path=self.path,
        )


@dataclass(frozen=True, slots=True)
class Inspection:
    """Verdict on an untrusted image. True if the image is safe to accept.

    >>> diskimg.create("upload.qcow2", "1G").size
    1073741824
    >>> inspection = diskimg.inspect("upload.qcow2", format="qcow2", max_virtual_size=1 << 20)
    >>> bool(inspection), inspection.verdict, inspection.virtual_size
    (False, 'unsafe', 1073741824)
    """

    filename: str
    """The name that the image was opened with."""
    verdict: Literal["safe", "unsafe"]
    """``unsafe`` if any finding has the severity ``error``."""
    format: str
    """The detected format: one of `FORMATS`, or one of which only the signature is known
    (``vhd``, ``vhdx``, ``vdi``, ``luks``, …)."""
    file_size: int
    """Length of the file in bytes."""
    claimed_format: str | None = None
    """The ``format`` that was passed to `inspect`."""
    other_formats: tuple[str, ...] = ()
    """Other formats whose signatures the file also contains."""
    partition_table: Literal["mbr", "gpt"] | None = None
    """The partition table of the disk, if it can be seen without decoding an image format."""
    virtual_size: int | None = None
    """Size of the virtual disk in bytes, if known."""
    actual_size: int | None = None
    """Space that the file occupies on the host in bytes, if known."""
    encrypted: bool = False
    """Whether the guest data are encrypted."""
    references: tuple[Reference, ...] = ()
    """Files that the image refers to. None of them was opened."""
    findings: tuple[InspectionFinding, ...] = ()
    """The findings, most severe first."""

    @property
    def safe(self) -> bool:
        """Whether the verdict is ``safe``."""
        return self.verdict == "safe"

    def __bool__(self) -> bool:
        return self.safe

    @classmethod
    def _from_json(cls, facts: Json) -> Inspection:
        fields = _fields(facts)
        fields["other_formats"] = tuple(fields["other_formats"])
        fields["references"] = tuple(Reference(**one) for one in fields["references"])
        fields["findings"] = tuple(InspectionFinding(**one) for one in fields["findings"])
        return cls(**fields)

    def to_dict(self) -> Json:
        """As in ``diskimg inspect --output=json``."""
        facts = _present(
            filename=self.filename,
            verdict=self.verdict,
            format=self.format,
            claimed_format=self.claimed_format,
            partition_table=self.partition_table,
            virtual_size=self.virtual_size,
            file_size=self.file_size,
            actual_size=self.actual_size,
            encrypted=self.encrypted,
        )
        return {
            **facts,
            "other-formats": list(self.other_formats),
            "references": [reference.to_dict() for reference in self.references],
            "findings": [finding.to_dict() for finding in self.findings],
        }


@dataclass(frozen=True, slots=True)
class PreflightFinding:
    """A finding about an image that a cloud or hypervisor is to receive.

    >>> diskimg.create("disk.vhd", "100M", format="vpc").size
    104857600
    >>> [finding.code for finding in diskimg.preflight("disk.vhd", "gcp").findings]
    ['format', 'size-multiple', 'size-range', 'no-partition-table']
    """

    code: PreflightCode
    """A stable identifier such as ``size-multiple``."""
    severity: Severity
    """With an ``error``, the image is rejected."""
    message: str
    """Description, one line. It may quote the image."""

    def to_dict(self) -> Json:
        """The fields."""
        return {"code": self.code, "severity": self.severity, "message": self.message}


@dataclass(frozen=True, slots=True)
class Preflight:
    """What a cloud or hypervisor would reject of an image. True if it accepts the image.

    >>> diskimg.create("disk.vhd", "100M", format="vpc").size
    104857600
    >>> found = diskimg.preflight("disk.vhd", "azure")
    >>> bool(found), [finding.code for finding in found.findings if finding.severity == "error"]
    (False, ['variant'])
    """

    filename: str
    """The name that the image was opened with."""
    consumer: Consumer
    """The cloud or hypervisor."""
    accepted: bool
    """False if any finding has the severity ``error``."""
    format: Format
    """The format of the image."""
    virtual_size: int
    """Size of the disk in bytes."""
    boots_bios: bool
    """Whether the first sector has boot code for a BIOS."""
    efi_partition: bool
    """Whether there is an EFI system partition."""
    boots_uefi: tuple[str, ...]
    """Architectures for which the EFI system partition has a boot loader that any firmware finds:
    ``x86_64``, ``aarch64``, …"""
    findings: tuple[PreflightFinding, ...] = ()
    """The findings, most severe first."""

    def __bool__(self) -> bool:
        return self.accepted

    @classmethod
    def _from_json(cls, facts: Json) -> Preflight:
        fields = _fields(facts)
        boot = _fields(fields.pop("boot"))
        fields["consumer"] = fields.pop("for")
        fields["findings"] = tuple(
            PreflightFinding(one["code"], one["severity"], one["message"])
            for one in fields["findings"]
        )
        return cls(
            **fields,
            boots_bios=boot["bios"],
            efi_partition=boot["efi_partition"],
            boots_uefi=tuple(boot["uefi"]),
        )

    def to_dict(self) -> Json:
        """As in ``diskimg preflight --output=json``."""
        return {
            "filename": self.filename,
            "for": self.consumer,
            "accepted": self.accepted,
            "format": self.format,
            "virtual-size": self.virtual_size,
            "boot": {
                "bios": self.boots_bios,
                "efi-partition": self.efi_partition,
                "uefi": list(self.boots_uefi),
            },
            "findings": [finding.to_dict() for finding in self.findings],
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """Result of a comparison. True if the images are identical.

    >>> comparison = diskimg.compare(io.BytesIO(bytes(512)), io.BytesIO(bytes(511) + b"x"))
    >>> bool(comparison), comparison.result, comparison.offset
    (False, 'content', 511)
    """

    result: Literal["identical", "content", "size", "status"]
    """``identical``, or what differs: the ``content`` or, in strict mode only, the ``size`` or the
    ``status`` (bytes that are allocated in only one of the images)."""
    offset: int | None = None
    """The first guest offset at which content or status differs."""
    size_mismatch: bool = False
    """Whether the sizes differ. Outside strict mode, the shorter image is treated as if it were
    padded with zeros."""

    @property
    def identical(self) -> bool:
        """Whether the images are identical."""
        return self.result == "identical"

    def __bool__(self) -> bool:
        return self.identical

    def to_dict(self) -> Json:
        """The fields (qemu-img has no JSON for this)."""
        return _present(result=self.result, offset=self.offset, size_mismatch=self.size_mismatch)


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem found by a check.

    >>> diskimg.Finding("leak", "warning", "cluster 7 is allocated but not used").to_dict()["code"]
    'leak'
    """

    code: Literal["corruption", "leak", "check-error", "digest-mismatch", "digest-not-verified"]
    """``corruption``: data are wrong or may become wrong. ``leak``: space is wasted.
    ``check-error``: a structure could not be checked. ``digest-mismatch``: contents differ from a
    digest that the image records of them. ``digest-not-verified``: the algorithm of a recorded
    digest is not known."""
    severity: Literal["error", "warning", "note"]
    """``warning`` for a leak, ``note`` for ``digest-not-verified``, otherwise ``error``."""
    message: str
    """Description with the location, one line."""

    def to_dict(self) -> Json:
        """The fields."""
        return {"code": self.code, "severity": self.severity, "message": self.message}


@dataclass(frozen=True, slots=True)
class CheckReport:
    """Result of a consistency check of an image.

    >>> diskimg.create("disk.qcow2", "1G").size
    1073741824
    >>> report = diskimg.check("disk.qcow2")
    >>> report.clean, report.corruptions, report.leaks, report.findings
    (True, 0, 0, ())
    """

    filename: str
    """The name that the image was opened with."""
    format: Format
    """The image's format."""
    check_errors: int
    """Number of structures that could not be checked."""
    corruptions: int = 0
    """Number of inconsistencies: data are wrong or may become wrong."""
    leaks: int = 0
    """Number of allocated clusters that nothing refers to."""
    corruptions_fixed: int = 0
    """Number of inconsistencies that a repair has removed."""
    leaks_fixed: int = 0
    """Number of clusters that nothing refers to and that a repair has made free."""
    warnings: int = 0
    """Number of defects that may prevent some programs from reading the image, but do not affect
    its data."""
    image_end_offset: int | None = None
    """Host offset past the last cluster in use."""
    total_clusters: int = 0
    """Number of clusters of the virtual disk."""
    allocated_clusters: int = 0
    """Number of allocated clusters."""
    fragmented_clusters: int = 0
    """Number of clusters that do not follow their predecessor on the host."""
    compressed_clusters: int = 0
    """Number of compressed clusters."""
    findings: tuple[Finding, ...] = ()
    """The problems found; the first of them if there are more than the limit ``check_findings``."""
    omitted_findings: int = 0
    """Number of further findings, which are only counted."""
    recorded_digests: int | None = None
    """Number of digests that the image records of its contents; `None` if the format has none."""
    verified_digests: int = 0
    """Number of these digests that match the contents."""

    @classmethod
    def _from_json(cls, facts: Json, **more: Any) -> CheckReport:
        return cls(**_fields(facts), **more)

    @property
    def clean(self) -> bool:
        """Whether there are no corruptions, leaks, warnings or check errors."""
        return not (self.check_errors or self.corruptions or self.leaks or self.warnings)

    def to_dict(self) -> Json:
        """As in ``qemu-img check --output=json``: counts that are 0 are left out."""
        return {
            "filename": self.filename,
            "format": self.format,
            "check-errors": self.check_errors,
            **_present(
                image_end_offset=self.image_end_offset or None,
                corruptions=self.corruptions or None,
                leaks=self.leaks or None,
                corruptions_fixed=self.corruptions_fixed or None,
                leaks_fixed=self.leaks_fixed or None,
                warnings=self.warnings or None,
                omitted_findings=self.omitted_findings or None,
                total_clusters=self.total_clusters or None,
                allocated_clusters=self.allocated_clusters or None,
                fragmented_clusters=self.fragmented_clusters or None,
                compressed_clusters=self.compressed_clusters or None,
                recorded_digests=self.recorded_digests,
                verified_digests=(None if self.recorded_digests is None else self.verified_digests),
            ),
        }


@dataclass(frozen=True, slots=True)
class Measure:
    """Space that a new image would take, in bytes.

    >>> diskimg.measure(size=1 << 30, format="qcow2")
    Measure(required=393216, fully_allocated=1074135040, bitmaps=None)
    """

    required: int
    """File length with only the source's data allocated."""
    fully_allocated: int
    """File length with every cluster allocated."""
    bitmaps: int | None = None
    """Additional space that copies of the source's bitmaps would take; `None` unless both source
    and target support bitmaps."""

    @classmethod
    def _from_json(cls, facts: Json) -> Measure:
        return cls(facts["required"], facts["fully-allocated"], facts.get("bitmaps"))

    def to_dict(self) -> Json:
        """As in ``qemu-img measure --output=json``."""
        return _present(
            bitmaps=self.bitmaps, required=self.required, fully_allocated=self.fully_allocated
        )


@dataclass(frozen=True, slots=True)
class Resized:
    """The sizes of a disk before and after `resize`.

    >>> diskimg.create("disk.qcow2", "1G").size
    1073741824
    >>> diskimg.resize("disk.qcow2", "+1G")
    Resized(old_size=1073741824, new_size=2147483648)
    """

    old_size: int
    """Size before, in bytes."""
    new_size: int
    """Size now, in bytes."""

    def to_dict(self) -> Json:
        """The fields."""
        return {"old-size": self.old_size, "new-size": self.new_size}


@dataclass(frozen=True, slots=True)
class Amended:
    """The result of `amend`.

    >>> diskimg.create("disk.qcow2", "1G").size
    1073741824
    >>> diskimg.amend("disk.qcow2", {"refcount_bits": 64}, format="qcow2")
    Amended(removed_bitmaps=0)
    """

    removed_bitmaps: int
    """Number of bitmaps that were removed, because the image cannot have any now."""

    def to_dict(self) -> Json:
        """The fields."""
        return {"removed-bitmaps": self.removed_bitmaps}


@dataclass(frozen=True, slots=True)
class Rebased:
    """The result of `rebase`.

    >>> diskimg.create("base.qcow2", "1G").size
    1073741824
    >>> diskimg.create("disk.qcow2", backing="base.qcow2", backing_format="qcow2").size
    1073741824
    >>> diskimg.rebase("disk.qcow2", None, format="qcow2")
    Rebased(stored_bytes=0)
    """

    stored_bytes: int
    """Bytes of guest data written to the image."""

    def to_dict(self) -> Json:
        """The fields."""
        return {"stored-bytes": self.stored_bytes}


@dataclass(frozen=True, slots=True)
class Committed:
    """The result of `commit`.

    >>> diskimg.create("base.qcow2", "1G").size
    1073741824
    >>> diskimg.create("disk.qcow2", backing="base.qcow2", backing_format="qcow2").size
    1073741824
    >>> diskimg.commit("disk.qcow2", format="qcow2").emptied
    True
    """

    base: str
    """The file that was written."""
    stored_bytes: int
    """Bytes of guest data written to it."""
    emptied: bool
    """Whether the image was emptied."""

    def to_dict(self) -> Json:
        """The fields."""
        return {"base": self.base, "stored-bytes": self.stored_bytes, "emptied": self.emptied}


@dataclass(frozen=True, slots=True)
class Created:
    """Description of a newly created image.

    >>> created = diskimg.create("disk.qcow2", "1G", options={"cluster_size": "1M"})
    >>> created.format, created.size, created.options["cluster_size"]
    ('qcow2', 1073741824, '1048576')
    """

    filename: str
    """The image's file name."""
    format: Format
    """The image's format."""
    size: int
    """Size of the virtual disk in bytes."""
    options: Mapping[str, str] = field(hash=False)
    """The create options in effect, including defaults."""
    notes: tuple[str, ...] = field(default=())
    """A sentence about each existing file that could not be replaced and was overwritten."""

    def to_dict(self) -> Json:
        """The fields."""
        return {
            "filename": self.filename,
            "format": self.format,
            "virtual-size": self.size,
            "options": dict(self.options),
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True)
class Salvaged:
    """A range of guest bytes that could not be read and was replaced with zeros.

    >>> diskimg.Salvaged(0, 65536, "the grain at 128 is damaged").to_dict()["end"]
    65536
    """

    start: int
    """Guest offset of the first byte."""
    end: int
    """Guest offset past the last byte."""
    error: str
    """Error message."""

    def to_dict(self) -> Json:
        """The fields."""
        return {"start": self.start, "end": self.end, "error": self.error}


@dataclass(frozen=True, slots=True)
class FileDigest:
    """The digest of a file that was written.

    >>> report = diskimg.convert(io.BytesIO(bytes(512)), "disk.qcow2", digest="sha256")
    >>> [(file.path, len(file.digest)) for file in report.digests.files]
    [('disk.qcow2', 64)]
    """

    path: str
    """The file's name."""
    digest: str
    """Digest of the whole file in lower-case hexadecimal."""

    def to_dict(self) -> Json:
        """The fields."""
        return {"path": self.path, "digest": self.digest}


@dataclass(frozen=True, slots=True)
class Digests:
    """Digests of what a conversion read and wrote.

    >>> report = diskimg.convert(io.BytesIO(bytes(512)), "disk.qcow2", digest="sha256")
    >>> report.digests.guest == hashlib.sha256(bytes(512)).hexdigest()
    True
    """

    algorithm: DigestAlgorithm
    """``sha256`` or ``blake3``."""
    guest: str
    """Digest of the guest's bytes, zeros included, in lower-case hexadecimal."""
    files: tuple[FileDigest, ...]
    """Digests of the files written, the main one first; empty if the output is a file object."""

    def to_dict(self) -> Json:
        """The fields."""
        return {
            "algorithm": self.algorithm,
            "guest": self.guest,
            "files": [file.to_dict() for file in self.files],
        }


@dataclass(frozen=True, slots=True)
class Report:
    """Summary of a conversion.

    >>> report = diskimg.convert(io.BytesIO(b"data" + bytes(1 << 20)), "disk.qcow2", verify=True)
    >>> report.guest_bytes, report.stored_bytes, report.verified
    (1049088, 65536, True)
    """

    guest_bytes: int
    """Size of the virtual disk in bytes; of several disks, including the gaps between them."""
    stored_bytes: int
    """Bytes of guest data stored in the output, after compression."""
    shared_bytes: int
    """Bytes among these that share their blocks with the source and take no extra space."""
    passed_bytes: int
    """Guest bytes of compressed clusters that were copied without recompression."""
    salvaged: tuple[Salvaged, ...] = field(default=())
    """Ranges that could not be read (only with ``salvage=True``), in guest order: at most 4,096."""
    warnings: tuple[str, ...] = field(default=())
    """Damage found in the source that did not prevent reading."""
    verified: bool = False
    """Whether the output was read again and found identical to the source (``verify=True``)."""
    digests: Digests | None = None
    """The digests, if ``digest=`` was given."""
    notes: tuple[str, ...] = field(default=())
    """A sentence about each existing file that could not be replaced and was overwritten."""
    salvaged_bytes: int = 0
    """Guest bytes in all ranges that could not be read."""

    def to_dict(self) -> Json:
        """The fields (qemu-img has no JSON for this)."""
        return {
            "guest-bytes": self.guest_bytes,
            "stored-bytes": self.stored_bytes,
            "shared-bytes": self.shared_bytes,
            "passed-bytes": self.passed_bytes,
            "salvaged": [lost.to_dict() for lost in self.salvaged],
            "salvaged-bytes": self.salvaged_bytes,
            "warnings": list(self.warnings),
            "verified": self.verified,
            "digests": None if self.digests is None else self.digests.to_dict(),
            "notes": list(self.notes),
        }
