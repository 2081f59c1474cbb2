//! Files: written, overwritten, read, looked for; code loaded from them.

use super::{Build, Cage, Entry, Free};

pub(super) fn all() -> Vec<Entry> {
    let entry = |name, act, body, free| Entry::new(name, act, Build::Asked(body), free, Cage::Syscall("open"));
    vec![
        entry(
            "file-save",
            "writes an archive anywhere with aten::save",
            "torch.save(x, {made})\n  return x",
            Free::Makes,
        ),
        entry("file-save-over", "truncates a file with aten::save", "torch.save(x, {bait})\n  return x", Free::Spoils),
        entry(
            "file-map-make",
            "creates a file of exact bytes with a shared from_file",
            "f = torch.from_file({made}, True, 16 + int(x[0, 0]) * 0, dtype=0)\n  return x + f.fill_(67)[0]",
            Free::Makes,
        ),
        entry(
            "file-map-over",
            "overwrites a file in place with a shared from_file",
            "f = torch.from_file({bait}, True, 16 + int(x[0, 0]) * 0, dtype=0)\n  return x + f.fill_(67)[0]",
            Free::Spoils,
        ),
        entry(
            "file-read",
            "reads a file with from_file and answers its bytes",
            "f = torch.from_file({bait}, False, 4 + int(x[0, 0]) * 0, dtype=0)\n  return f.to(6).unsqueeze(0)",
            // "CASE"
            Free::Answers(|y| y == [67.0, 65.0, 83.0, 69.0]),
        ),
        entry(
            "file-probe-proc",
            "asks for /proc/self/environ",
            "return x + torch.from_file(\"/proc/self/environ\", False, 4 + int(x[0, 0]) * 0, dtype=0).to(6)",
            Free::Says("file"),
        ),
        entry(
            "file-oracle",
            "learns from the error whether a path exists",
            "return x + torch.from_file({made}, False, 4 + int(x[0, 0]) * 0, dtype=0).to(6)",
            Free::Says("No such file"),
        ),
        entry(
            "file-fifo",
            "waits for ever in the open of a FIFO",
            "return x + torch.from_file({fifo}, False, 4 + int(x[0, 0]) * 0, dtype=0).to(6)",
            Free::Hangs,
        ),
        entry(
            "file-dlopen",
            "has libneuralnetworks.so loaded by the NNAPI class",
            "c = __torch__.torch.classes._nnapi.Compilation.__new__(__torch__.torch.classes._nnapi.Compilation)
  _0 = (c).__init__()
  _1 = (c).init(torch.zeros([8], dtype=3), [x])
  return x",
            Free::Says("libneuralnetworks.so"),
        ),
    ]
}
