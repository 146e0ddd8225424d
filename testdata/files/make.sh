#!/bin/sh
# Makes the images of this folder: ./make.sh DIR. Needs e2fsprogs, dosfstools, mtools and fdisk.
set -eu
export LC_ALL=C.UTF-8 TZ=UTC E2FSPROGS_FAKE_TIME=1700000000 MTOOLS_SKIP_CHECK=1
mkdir -p "$1" && cd "$1"
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
mkdir -p "$tree/dir/sub" "$tree/empty"
echo hello > "$tree/dir/file.txt"
ln -s dir/file.txt "$tree/link"
ln -s "$(printf '%0100d' 0)" "$tree/dir/long-link"
mkfifo "$tree/fifo"
touch "$tree/$(printf 'new\nline')" "$tree/$(printf 'bad\377')" "$tree/$(printf 'bidi\342\200\256gpj.exe')"
i=0
while [ $i -lt 60 ]; do
    : > "$tree/dir/sub/a long name of a file, number $i"
    i=$((i + 1))
done
chmod 4750 "$tree/dir/file.txt"
find "$tree" -exec touch -h -d @1600000000.123456789 {} +
uuid=11111111-2222-3333-4444-555555555555
make() { # NAME SIZE OPTIONS...
    name=$1 size=$2
    shift 2
    rm -f "$name.img"
    mke2fs -q -F -U $uuid -E hash_seed=$uuid,root_owner=0:0 -d "$tree" "$@" "$name.img" "$size" 2> /dev/null
}
make ext2 256k -t ext2 -b 1024 -N 128 -L two
make ext4 512k -t ext4 -b 1024 -N 128 -L four -O inline_data,^has_journal,^resize_inode -I 256
make journal 3M -t ext4 -b 1024 -N 128 -J size=1 -O ^metadata_csum,^resize_inode -I 128
# A crash: the directory's newest block, in which a name differs, is in the journal only. A later
# transaction revokes another block.
block=$(debugfs -R "blocks /" journal.img 2>/dev/null | tr -d ' ')
dd if=journal.img of=block bs=1024 skip="$block" count=1 status=none
sed -i 's/empty/later/' block
printf 'journal_open\njournal_write -b %s block\njournal_write -r 77\njournal_close\n' "$block" |
    debugfs -w -f - journal.img > /dev/null 2>&1
rm block
fat() { # NAME SIZE OPTIONS...
    name=$1 size=$2
    shift 2
    rm -f "$name.img"
    truncate -s "$size" "$name.img"
    mkfs.vfat -i 1234abcd -n LABEL "$@" "$name.img" > /dev/null
    mmd -i "$name.img" ::/dir "::/Long directory näme"
    echo hello > hello
    touch -d @1600000000 hello
    for file in "A file with a long name.text" SHORT.TXT lower.txt "dir/日本.txt" dir/gone; do
        mcopy -m -i "$name.img" hello "::/$file"
    done
    mdel -i "$name.img" ::/dir/gone
    rm hello
}
fat fat12 256K -F 12 -s 1 -r 64
fat fat16 4M -F 16 -s 1 -r 64
fat fat32 34M -F 32 -s 1
truncate -s 4M mbr.img
sfdisk -q mbr.img << END
label: dos
label-id: 0x12345678
start=64, size=512, type=c, bootable
start=1024, size=6000, type=5
start=1088, size=512, type=83
start=2048, size=512, type=82
END
dd if=fat12.img of=mbr.img bs=512 seek=64 conv=notrunc status=none
dd if=ext2.img of=mbr.img bs=512 seek=1088 conv=notrunc status=none
truncate -s 1M gpt.img
sfdisk -q gpt.img << END
label: gpt
label-id: $uuid
start=64, size=512, type=uefi, name="EFI system", uuid=$uuid
start=1024, size=512, type=linux, name="Wurzel", uuid=22222222-2222-3333-4444-555555555555
END
dd if=fat12.img of=gpt.img bs=512 seek=64 conv=notrunc status=none
dd if=ext2.img of=gpt.img bs=512 seek=1024 conv=notrunc status=none
gzip -n9f ./*.img
