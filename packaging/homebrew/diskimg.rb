# Builds the command from the source of a release. `.ci/source` sets the address and the checksum in
# target/dist/diskimg.rb, which is the formula to put into a tap.
class Diskimg < Formula
  desc "Convert and inspect disk images: qcow2, VMDK, OVA, ISO and raw"
  homepage "https://example.invalid/diskimg"
  url "https://example.invalid/diskimg/releases/download/v0.1.0/diskimg-0.1.0-source.tar.gz"
  sha256 "0000000000000000000000000000000000000000000000000000000000000000"
  license any_of: ["MIT", "Apache-2.0"]

  depends_on "rust" => :build

  def install
    system "cargo", "install", *std_cargo_args(path: "crates/diskimg-cli")
    generate_completions_from_executable(bin/"diskimg", "completions")
    system bin/"diskimg", "man", man1
  end

  test do
    (testpath/"disk.img").write "diskimg" * 1024
    system bin/"diskimg", "convert", "-f", "raw", "-O", "qcow2", "disk.img", "disk.qcow2"
    system bin/"diskimg", "compare", "-f", "raw", "disk.img", "disk.qcow2"
    assert_match "file format: qcow2", shell_output("#{bin}/diskimg info disk.qcow2")
  end
end
