"""What the functions give: values that show, compare and turn into qemu-img's JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Json: TypeAlias = dict[str, Any]
"""What `json.dumps` takes."""


def _present(**facts: Any) -> Json:
    """Facts under qemu-img's keys. What is not there, or empty, is left out, as it does."""
    return {
        name.replace("_", "-"): value for name, value in facts.items() if value not in (None, [])
    }


def _fields(facts: Json) -> Json:
    """The other way round: qemu-img's keys as names of fields."""
    return {key.replace("-", "_"): value for key, value in facts.items()}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An internal snapshot of a qcow2 image."""

    id: str
    """Unique identifier."""
    name: str
    """Name; not always unique."""
    vm_state_size: int
    """Bytes of saved machine state."""
    date_sec: int
    """When it was taken: seconds since 1970, UTC …"""
    date_nsec: int
    """… and nanoseconds."""
    vm_clock_sec: int
    """How long the guest had run: seconds …"""
    vm_clock_nsec: int
    """… and nanoseconds."""
    icount: int | None = None
    """Instructions executed, where recorded."""

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
    """A file that an image consists of."""

    name: str
    """What it is to the image: ``file``, ``data-file``, ``extents.0``, …"""
    filename: str
    """Its path."""
    format: str
    """``file``, or ``host_device`` for a block device."""
    virtual_size: int
    """Its length in bytes: whole sectors of 512, as QEMU counts."""
    actual_size: int | None
    """Bytes that it occupies on the host, where that is known."""

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
    """What an image, or one layer of a chain, tells of itself."""

    filename: str
    """The name it was opened by."""
    format: str
    """Its format: one of `FORMATS`."""
    virtual_size: int
    """Guest bytes."""
    actual_size: int | None = None
    """Bytes that it occupies on the host, where that is known."""
    cluster_size: int | None = None
    """Bytes that the format allocates at a time, where it does."""
    encrypted: bool = False
    """The guest's bytes are encrypted."""
    compressed: bool = False
    """Every unit is compressed, by the format's nature."""
    dirty: bool = False
    """It was not closed properly."""
    backing_filename: str | None = None
    """The backing file's name as the image holds it."""
    full_backing_filename: str | None = None
    """Where that name leads."""
    backing_format: str | None = None
    """The format that the image claims for its backing file."""
    snapshots: tuple[Snapshot, ...] = ()
    """Internal snapshots."""
    children: tuple[Child, ...] = ()
    """The files that it consists of, without its backing file."""
    format_specific: Mapping[str, Any] | None = field(default=None, hash=False)
    """The format's own facts, under qemu-img's keys."""
    notes: tuple[str, ...] = ()
    """Sentences that a person should read."""

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
        """As ``qemu-img info --output=json`` (and ``notes``, which it does not have)."""
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
    """A range of guest bytes that one layer treats alike."""

    start: int
    """Guest offset in bytes."""
    length: int
    """Bytes; never 0."""
    depth: int
    """The layer that answers: 0 is the image itself, 1 its backing file."""
    present: bool
    """Some layer has something to say of these bytes, be it that they are zero."""
    zero: bool
    """They read as zeros."""
    data: bool
    """They are stored as data."""
    compressed: bool
    """They are stored compressed."""
    offset: int | None = None
    """Host offset of the first byte, where bytes lie verbatim."""
    filename: str | None = None
    """The file that `offset` is in."""

    @property
    def end(self) -> int:
        """Guest offset behind the last byte."""
        return self.start + self.length

    def to_dict(self) -> Json:
        """As one entry of ``qemu-img map --output=json``."""
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
    """What a file's bytes say that it is."""

    filename: str | None
    """The name it was looked at by; `None` for bytes."""
    format: str
    """One of `FORMATS`; ``raw`` is what nothing else matched."""

    def to_dict(self) -> Json:
        """The fields, under qemu-img's keys."""
        return _present(filename=self.filename, format=self.format)


@dataclass(frozen=True, slots=True)
class Reference:
    """A file that an image names. It was not looked for."""

    role: Literal["backing-file", "data-file", "extent", "parent", "file"]
    """What it is to the image."""
    name: str
    """Its name, as the image has it."""
    format: str | None = None
    """The format that the image claims for it."""

    def to_dict(self) -> Json:
        """The fields."""
        return _present(role=self.role, name=self.name, format=self.format)


@dataclass(frozen=True, slots=True)
class InspectionFinding:
    """One thing that a look at an untrusted image found."""

    code: str
    """What: a stable name such as ``backing-file``; SECURITY.md lists them."""
    severity: Literal["refuse", "warn", "note"]
    """What it means for the verdict: one ``refuse`` makes the image unsafe."""
    message: str
    """In words, one line. It may quote the image."""
    offset: int | None = None
    """Where in the file, in bytes, if it is in one place."""
    member: str | None = None
    """In which file of an appliance."""

    def to_dict(self) -> Json:
        """The fields."""
        return _present(
            code=self.code,
            severity=self.severity,
            message=self.message,
            offset=self.offset,
            member=self.member,
        )


@dataclass(frozen=True, slots=True)
class Inspection:
    """Whether an untrusted image is safe to let in. True if it is."""

    filename: str
    """The name it was opened by."""
    verdict: Literal["safe", "unsafe"]
    """``unsafe`` if any finding says ``refuse``."""
    format: str
    """Its format by its bytes: one of `FORMATS`, or one that is known by its signature alone
    (``vhd``, ``vhdx``, ``vdi``, ``qed``, ``luks``, …)."""
    file_size: int
    """Bytes of the file."""
    claimed_format: str | None = None
    """The format that was claimed."""
    other_formats: tuple[str, ...] = ()
    """Other formats that the bytes are of as well."""
    partition_table: Literal["mbr", "gpt"] | None = None
    """How the disk is divided, where that shows without reading a container."""
    virtual_size: int | None = None
    """Guest bytes, where they are known."""
    actual_size: int | None = None
    """Bytes that it occupies on the host, where that is known."""
    encrypted: bool = False
    """The guest's bytes are encrypted."""
    references: tuple[Reference, ...] = ()
    """Files that the image names. None of them was opened."""
    findings: tuple[InspectionFinding, ...] = ()
    """What was found, the worst first."""

    @property
    def safe(self) -> bool:
        """Nothing was found that speaks against it."""
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
class Comparison:
    """Whether two images show the guest the same bytes. True if they do."""

    result: Literal["identical", "content", "size", "status"]
    """``identical``, or what differs: the ``content``; in strict mode also the
    ``size``, or the ``status`` (bytes that only one image holds)."""
    offset: int | None = None
    """The first guest offset where content or status differs."""
    size_mismatch: bool = False
    """The sizes differ. The shorter image counts as padded with zeros, unless in
    strict mode."""

    @property
    def identical(self) -> bool:
        """The guest sees the same bytes."""
        return self.result == "identical"

    def __bool__(self) -> bool:
        return self.identical

    def to_dict(self) -> Json:
        """The fields (qemu-img has no JSON for this)."""
        return _present(result=self.result, offset=self.offset, size_mismatch=self.size_mismatch)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with an image."""

    severity: Literal["corruption", "leak", "check-error"]
    """``corruption``: data are or may become wrong. ``leak``: space is wasted.
    ``check-error``: the check could not look there."""
    message: str
    """What, and where: one line."""

    def to_dict(self) -> Json:
        """The fields."""
        return {"severity": self.severity, "message": self.message}


@dataclass(frozen=True, slots=True)
class CheckReport:
    """Whether an image is consistent in itself."""

    filename: str
    """The name it was opened by."""
    format: str
    """Its format."""
    check_errors: int
    """Places that could not be checked."""
    corruptions: int = 0
    """Contradictions: data are or may become wrong."""
    leaks: int = 0
    """Allocated units that nothing refers to."""
    image_end_offset: int | None = None
    """Host offset behind the last unit in use, in bytes."""
    total_clusters: int = 0
    """Units of the virtual disk."""
    allocated_clusters: int = 0
    """Units that the image holds."""
    fragmented_clusters: int = 0
    """Units that do not follow their predecessor on the host."""
    compressed_clusters: int = 0
    """Compressed units."""
    findings: tuple[Finding, ...] = ()
    """Each thing that is wrong."""

    @classmethod
    def _from_json(cls, facts: Json, **more: Any) -> CheckReport:
        return cls(**_fields(facts), **more)

    @property
    def clean(self) -> bool:
        """Nothing is wrong, and nothing wasted."""
        return not (self.check_errors or self.corruptions or self.leaks)

    def to_dict(self) -> Json:
        """As ``qemu-img check --output=json``: counts that are 0 are left out."""
        return {
            "filename": self.filename,
            "format": self.format,
            "check-errors": self.check_errors,
            **_present(
                image_end_offset=self.image_end_offset or None,
                corruptions=self.corruptions or None,
                leaks=self.leaks or None,
                total_clusters=self.total_clusters or None,
                allocated_clusters=self.allocated_clusters or None,
                fragmented_clusters=self.fragmented_clusters or None,
                compressed_clusters=self.compressed_clusters or None,
            ),
        }


@dataclass(frozen=True, slots=True)
class Measure:
    """How much space a new image would take, in bytes."""

    required: int
    """File length for the data at hand."""
    fully_allocated: int
    """File length with every unit allocated."""
    bitmaps: int | None = None
    """What the source's bitmaps would take besides, were they carried over; `None`
    unless both source and target can hold bitmaps."""

    @classmethod
    def _from_json(cls, facts: Json) -> Measure:
        return cls(facts["required"], facts["fully-allocated"], facts.get("bitmaps"))

    def to_dict(self) -> Json:
        """As ``qemu-img measure --output=json``."""
        return _present(
            bitmaps=self.bitmaps, required=self.required, fully_allocated=self.fully_allocated
        )


@dataclass(frozen=True, slots=True)
class Created:
    """An image that was created."""

    filename: str
    """Its name."""
    format: str
    """Its format."""
    size: int
    """Guest bytes."""
    options: Mapping[str, str] = field(hash=False)
    """The create options in effect, given or by default."""

    def to_dict(self) -> Json:
        """The fields."""
        return {
            "filename": self.filename,
            "format": self.format,
            "virtual-size": self.size,
            "options": dict(self.options),
        }


@dataclass(frozen=True, slots=True)
class Salvaged:
    """Guest bytes that could not be read, and are zeros now."""

    start: int
    """Guest offset of the first."""
    end: int
    """Guest offset behind the last."""
    error: str
    """Why."""

    def to_dict(self) -> Json:
        """The fields."""
        return {"start": self.start, "end": self.end, "error": self.error}


@dataclass(frozen=True, slots=True)
class FileDigest:
    """The digest of a file that was written."""

    path: str
    digest: str
    """Of all of its bytes, in lower-case hexadecimal."""

    def to_dict(self) -> Json:
        """The fields."""
        return {"path": self.path, "digest": self.digest}


@dataclass(frozen=True, slots=True)
class Digests:
    """Digests of what a conversion read and wrote."""

    algorithm: str
    """``sha256`` or ``blake3``."""
    guest: str
    """Of the guest's bytes, zeros included, in lower-case hexadecimal."""
    files: tuple[FileDigest, ...]
    """Of each file that was written, the main one first; none of a file object."""

    def to_dict(self) -> Json:
        """The fields."""
        return {
            "algorithm": self.algorithm,
            "guest": self.guest,
            "files": [file.to_dict() for file in self.files],
        }


@dataclass(frozen=True, slots=True)
class Report:
    """What a conversion did."""

    guest_bytes: int
    """Size of the disk; several disks are counted with the gaps between them."""
    stored_bytes: int
    """Bytes of guest data in the output, after compression."""
    shared_bytes: int
    """How many of these share their blocks with the source, and took no space."""
    passed_bytes: int
    """Guest bytes of compressed units that were taken as the source stores them."""
    salvaged: tuple[Salvaged, ...] = field(default=())
    """What could not be read (only with ``salvage=True``), in guest order."""
    warnings: tuple[str, ...] = field(default=())
    """What was damaged in the source and is made up for."""
    verified: bool = False
    """The output was read again and says what the source says (``verify=True``)."""
    digests: Digests | None = None
    """What was asked for by ``digest=``."""

    def to_dict(self) -> Json:
        """The fields (qemu-img has no JSON for this)."""
        return {
            "guest-bytes": self.guest_bytes,
            "stored-bytes": self.stored_bytes,
            "shared-bytes": self.shared_bytes,
            "passed-bytes": self.passed_bytes,
            "salvaged": [lost.to_dict() for lost in self.salvaged],
            "warnings": list(self.warnings),
            "verified": self.verified,
            "digests": None if self.digests is None else self.digests.to_dict(),
        }
